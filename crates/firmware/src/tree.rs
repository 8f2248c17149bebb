//! Nodes, properties and phandles.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use portcullis_spec::dt;

use crate::blob::Blob;
use crate::cells::Cells;
use crate::error::{FirmwareError, PropertyFault};

/// A device tree in which nodes can be found.
#[derive(Debug)]
pub(crate) struct Tree<'a> {
    blob: Blob<'a>,
    phandles: BTreeMap<u32, usize>,
}

/// A node of a tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'t, 'a> {
    tree: &'t Tree<'a>,
    index: usize,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(blob: Blob<'a>) -> Result<Self, FirmwareError> {
        let mut tree = Self { blob, phandles: BTreeMap::new() };
        for index in 0..tree.blob.nodes.len() {
            let node = Node { tree: &tree, index };
            let Some((property, phandle)) = node.own_phandle()? else { continue };
            if tree.phandles.contains_key(&phandle) {
                return Err(node.fault(property, PropertyFault::DuplicatePhandle(phandle)));
            }
            tree.phandles.insert(phandle, index);
        }
        Ok(tree)
    }

    pub(crate) fn root(&self) -> Node<'_, 'a> {
        Node { tree: self, index: 0 }
    }

    /// Every node, parents before their children.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = Node<'_, 'a>> {
        (0..self.blob.nodes.len()).map(|index| Node { tree: self, index })
    }

    pub(crate) fn by_phandle(&self, phandle: u32) -> Option<Node<'_, 'a>> {
        self.phandles.get(&phandle).map(|&index| Node { tree: self, index })
    }

    pub(crate) fn reservations(&self) -> &[portcullis_types::PaRange] {
        &self.blob.reservations
    }
}

impl PartialEq for Node<'_, '_> {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
    }
}

impl<'t, 'a> Node<'t, 'a> {
    /// The node's place in the tree: the same number for the same node.
    pub(crate) fn index(self) -> usize {
        self.index
    }

    pub(crate) fn tree(self) -> &'t Tree<'a> {
        self.tree
    }

    /// The name with its unit address; empty for the root.
    pub(crate) fn name(self) -> &'a str {
        self.tree.blob.nodes[self.index].name
    }

    /// The name without its unit address.
    pub(crate) fn base_name(self) -> &'a str {
        self.name().split('@').next().unwrap_or_default()
    }

    pub(crate) fn parent(self) -> Option<Self> {
        let parent = self.tree.blob.nodes[self.index].parent?;
        Some(Self { index: parent, ..self })
    }

    /// The parent, its parent, and so on to the root.
    pub(crate) fn ancestors(self) -> impl Iterator<Item = Self> {
        core::iter::successors(self.parent(), |node| node.parent())
    }

    /// The names from the root on: `/soc/smmu@9050000`.
    pub(crate) fn path(self) -> String {
        if self.index == 0 {
            return String::from("/");
        }
        let mut names: Vec<&str> = self.ancestors().map(Self::name).collect();
        names.pop();
        let mut path = String::new();
        for name in names.into_iter().rev().chain([self.name()]) {
            path.push('/');
            path.push_str(name);
        }
        path
    }

    /// The error that something is wrong with a property of this node.
    pub(crate) fn fault(self, property: &'static str, fault: PropertyFault) -> FirmwareError {
        FirmwareError::Property { path: self.path(), property, fault }
    }

    /// The bytes of a property.
    pub(crate) fn property(self, name: &str) -> Option<&'a [u8]> {
        let range = self.tree.blob.nodes[self.index].properties.clone();
        self.tree.blob.properties[range].iter().find(|property| property.0 == name).map(|property| property.1)
    }

    /// Whether there is such a property, which must be empty if so.
    pub(crate) fn flag(self, name: &'static str) -> Result<bool, FirmwareError> {
        match self.property(name) {
            None => Ok(false),
            Some([]) => Ok(true),
            Some(value) => {
                Err(self.fault(name, PropertyFault::Length { len_bytes: value.len(), wanted_bytes: 0 }))
            }
        }
    }

    /// A property's cells.
    pub(crate) fn cells(self, name: &'static str) -> Result<Option<Cells<'t, 'a>>, FirmwareError> {
        self.property(name).map(|value| Cells::new(self, name, value)).transpose()
    }

    /// A property of one cell.
    pub(crate) fn u32(self, name: &'static str) -> Result<Option<u32>, FirmwareError> {
        let Some(value) = self.property(name) else { return Ok(None) };
        let cell: Option<[u8; 4]> = value.try_into().ok();
        let fault = PropertyFault::Length { len_bytes: value.len(), wanted_bytes: 4 };
        cell.map(|cell| Some(u32::from_be_bytes(cell))).ok_or_else(|| self.fault(name, fault))
    }

    /// A property's texts; none if there is no such property.
    pub(crate) fn texts(self, name: &'static str) -> Result<Vec<&'a str>, FirmwareError> {
        let Some(value) = self.property(name) else { return Ok(Vec::new()) };
        let texts = core::str::from_utf8(value).ok().and_then(|text| text.strip_suffix('\0'));
        Ok(texts.ok_or_else(|| self.fault(name, PropertyFault::NotText))?.split('\0').collect())
    }

    pub(crate) fn is_compatible(self, with: &str) -> Result<bool, FirmwareError> {
        Ok(self.texts(dt::COMPATIBLE)?.contains(&with))
    }

    /// Whether the node itself is there to be used.
    fn own_status(self) -> Result<bool, FirmwareError> {
        match self.texts(dt::STATUS)?.as_slice() {
            [] => Ok(true),
            [status] => Ok(dt::STATUS_OKAY.contains(status)),
            _ => Err(self.fault(dt::STATUS, PropertyFault::NotText)),
        }
    }

    /// Whether the node and every node above it are there to be used.
    pub(crate) fn is_enabled(self) -> Result<bool, FirmwareError> {
        for node in core::iter::once(self).chain(self.ancestors()) {
            if !node.own_status()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn own_phandle(self) -> Result<Option<(&'static str, u32)>, FirmwareError> {
        for name in [dt::PHANDLE, dt::LINUX_PHANDLE] {
            if let Some(phandle) = self.u32(name)? {
                let usable = phandle != 0 && phandle != u32::MAX;
                let fault = PropertyFault::Value(phandle.into());
                return if usable { Ok(Some((name, phandle))) } else { Err(self.fault(name, fault)) };
            }
        }
        Ok(None)
    }

    /// The node's number, if it has one.
    pub(crate) fn phandle(self) -> Option<u32> {
        self.own_phandle().ok().flatten().map(|(_, phandle)| phandle)
    }
}
