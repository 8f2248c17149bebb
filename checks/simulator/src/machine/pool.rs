//! Pages of memory that drivers and users have: last in, first out, so that what was given back is another's as soon as can be.

/// The pages.
#[derive(Debug)]
pub(crate) struct Pool {
    first: u64,
    granule: u64,
    free: Vec<u64>,
    taken: Vec<bool>,
}

impl Pool {
    pub(crate) fn new(first: u64, granule: u64, pages: u64) -> Self {
        let count = usize::try_from(pages).expect("few pages");
        Self { first, granule, free: (0..pages).rev().collect(), taken: vec![false; count] }
    }

    /// Takes `count` pages that lie one behind the other. Answers the first one's address.
    pub(crate) fn take(&mut self, count: u64) -> Option<u64> {
        if count == 1 {
            let page = loop {
                let page = self.free.pop()?;
                if !self.taken[index(page)] {
                    break page;
                }
            };
            self.taken[index(page)] = true;
            return Some(self.first + page * self.granule);
        }
        let want = index(count);
        let at = (0..self.taken.len().checked_sub(want)? + 1)
            .find(|&at| self.taken[at..at + want].iter().all(|taken| !taken))?;
        self.taken[at..at + want].fill(true);
        Some(self.first + at as u64 * self.granule)
    }

    /// Gives pages back.
    pub(crate) fn give(&mut self, first: u64, count: u64) {
        let page = (first - self.first) / self.granule;
        for page in page..page + count {
            self.taken[index(page)] = false;
            self.free.push(page);
        }
        if self.free.len() > 4 * self.taken.len() {
            // Pages that were taken by runs are in the list more than once.
            let taken = &self.taken;
            let mut seen = vec![false; taken.len()];
            self.free
                .retain(|&page| !taken[index(page)] && !core::mem::replace(&mut seen[index(page)], true));
        }
    }

    /// The address of some page, taken or not.
    pub(crate) fn some(&self, pick: u64) -> u64 {
        self.first + pick % self.taken.len() as u64 * self.granule
    }
}

fn index(page: u64) -> usize {
    usize::try_from(page).expect("few pages")
}
