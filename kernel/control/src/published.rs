//! What control publishes in xenstore of the things there are, a node for each, and what has changed
//! of that since the last time.

use alloc::string::String;
use alloc::vec::Vec;

use spindle_block::VolumeId;
use spindle_xen::xenbus::{Backend, DeviceId};

use crate::cores::CoreId;

/// What a node is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Disk(VolumeId),
    Device(DeviceId),
    Core(CoreId),
    /// A group of devices, by its number.
    Group(u32),
}

/// A node.
#[derive(Debug)]
pub(crate) struct PublishedNode {
    pub(crate) subject: Subject,
    pub(crate) path: String,
    pub(crate) text: String,
}

impl PublishedNode {
    fn is_at_place_of(&self, other: &Self) -> bool {
        self.subject == other.subject && self.path == other.path
    }
}

/// The nodes as they were published last.
#[derive(Debug, Default)]
pub(crate) struct Published(Vec<PublishedNode>);

impl Published {
    /// What they are about.
    pub(crate) fn subjects(&self) -> impl Iterator<Item = Subject> {
        self.0.iter().map(|node| node.subject)
    }

    /// Publishes what is new or has another text, and removes what is no longer there.
    pub(crate) fn update(&mut self, nodes: Vec<PublishedNode>, backend: &mut Backend) {
        let is_in = |nodes: &[PublishedNode], node: &PublishedNode| {
            nodes.iter().any(|other| other.is_at_place_of(node))
        };
        for old in self.0.iter().filter(|old| !is_in(&nodes, old)) {
            backend.unpublish(old.path.clone());
        }
        for node in &nodes {
            let old = self.0.iter().find(|old| old.is_at_place_of(node));
            if old.is_none_or(|old| old.text != node.text) {
                backend.publish(node.path.clone(), node.text.clone());
            }
        }
        self.0 = nodes;
    }
}
