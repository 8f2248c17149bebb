//! A machine drawn with box characters.

use portcullis_lab::machines::MachineTree;

/// The tree from `root` on, a line for each node and for each of its details.
pub(crate) fn draw(root: &MachineTree) -> String {
    let mut text = String::new();
    node(root, "", "", &mut text);
    text
}

/// Draws a node. `lead` goes before its own line, `rest` before every other line of it.
fn node(of: &MachineTree, lead: &str, rest: &str, text: &mut String) {
    text.push_str(&format!("{lead}{}\n", of.label));
    let beside = if of.children.is_empty() { "  " } else { "│ " };
    of.details.iter().for_each(|detail| text.push_str(&format!("{rest}{beside}  {detail}\n")));
    if let Some((last, others)) = of.children.split_last() {
        others.iter().for_each(|child| node(child, &format!("{rest}├─ "), &format!("{rest}│  "), text));
        node(last, &format!("{rest}└─ "), &format!("{rest}   "), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(label: &str, details: &[&str]) -> MachineTree {
        MachineTree {
            label: label.into(),
            details: details.iter().map(|&detail| detail.into()).collect(),
            children: Vec::new(),
        }
    }

    #[test]
    fn children_hang_on_lines_and_details_stand_beside_them() {
        let bridge = MachineTree { children: vec![leaf("nvme", &["stream 8"])], ..leaf("bridge", &[]) };
        let root = MachineTree { children: vec![bridge, leaf("its", &[])], ..leaf("virt", &["1 GiB"]) };
        let expected = "\
virt
│   1 GiB
├─ bridge
│  └─ nvme
│         stream 8
└─ its
";
        assert_eq!(draw(&root), expected);
    }
}
