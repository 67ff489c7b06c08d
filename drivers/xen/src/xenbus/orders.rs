//! Orders of an operator that are left in a node, each taken once: read and cleared in one
//! transaction, since the next one may be written at any time.

use alloc::vec::Vec;

use spindle_status::path;

use super::jobs::Job;
use super::{Action, Backend};
use crate::store::{Priority, Reply, Request, TransactionError, UnitId};

/// A node that orders are left in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OrderNode {
    /// `xl sysrq` writes a letter there.
    SysRq,
    /// What is to be tried, in words.
    Crash,
    /// Which image is to follow.
    Update,
    /// Limits, in words.
    Limit,
    /// What is to be done with a logical volume.
    Volume,
    /// An option.
    Setting,
    /// What a controller is to say of itself.
    Inspect,
}

impl OrderNode {
    const ALL: [Self; 7] = [
        Self::SysRq,
        Self::Crash,
        Self::Update,
        Self::Limit,
        Self::Volume,
        Self::Setting,
        Self::Inspect,
    ];
    const DRILLS: [Self; 2] = [Self::SysRq, Self::Crash];

    const fn path(self) -> &'static str {
        match self {
            Self::SysRq => "control/sysrq",
            Self::Crash => path::CRASH,
            Self::Update => path::UPDATE,
            Self::Limit => path::LIMIT,
            Self::Volume => path::VOLUME,
            Self::Setting => path::SETTING,
            Self::Inspect => path::INSPECT,
        }
    }

    const fn token(self) -> &'static str {
        match self {
            Self::SysRq => "sysrq",
            Self::Crash => "crash",
            Self::Update => "update",
            Self::Limit => "limit",
            Self::Volume => "volume",
            Self::Setting => "setting",
            Self::Inspect => "inspect",
        }
    }
}

/// What is known of the nodes.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// Watches are to be set at these.
    wanted: Vec<OrderNode>,
    /// Something may be in them.
    due: Vec<OrderNode>,
}

impl Backend {
    /// Has [`Action::Drill`] come when an operator asks for one.
    pub fn take_drills(&mut self) {
        self.orders.wanted.extend(OrderNode::DRILLS);
    }

    /// Has [`Action::Update`] come when an operator asks for an update.
    pub fn take_updates(&mut self) {
        self.orders.wanted.push(OrderNode::Update);
    }

    /// Has [`Action::Limit`] and [`Action::Setting`] come when an administrator asks for other limits or
    /// options.
    pub fn take_limits(&mut self) {
        self.orders
            .wanted
            .extend([OrderNode::Limit, OrderNode::Setting]);
    }

    /// Has [`Action::Volume`] and [`Action::Inspect`] come when an administrator asks for a logical volume
    /// to be changed, or for what a controller says of itself.
    pub fn take_volumes(&mut self) {
        let nodes = [OrderNode::Volume, OrderNode::Inspect];
        self.orders.wanted.extend(nodes);
    }

    /// Whether a watch event is for such a node.
    pub(super) fn route_order(&mut self, token: &[u8]) -> bool {
        let node = OrderNode::ALL.into_iter();
        let Some(node) = node
            .into_iter()
            .find(|node| node.token().as_bytes() == token)
        else {
            return false;
        };
        self.order_due(node);
        true
    }

    fn order_due(&mut self, node: OrderNode) {
        if !self.orders.due.contains(&node) {
            self.orders.due.push(node);
        }
    }

    pub(super) fn start_orders(&mut self) {
        if !self.orders.wanted.is_empty() {
            let nodes = core::mem::take(&mut self.orders.wanted);
            let watch = |node: OrderNode| Request::Watch(node.path().into(), node.token().into());
            self.client.post(nodes.into_iter().map(watch).collect());
        }
        if !self.is_running(|job| matches!(job, Job::Order { .. }))
            && let Some(node) = self.orders.due.pop()
        {
            let unit = self.client.begin(Vec::new(), Priority::Urgent);
            self.run(
                unit,
                Job::Order {
                    node,
                    text: Vec::new(),
                },
            );
        }
    }

    /// The transaction has begun, or its node was read.
    pub(super) fn read_order(
        &mut self,
        unit: UnitId,
        node: OrderNode,
        replies: &[Reply],
    ) -> Option<Job> {
        let text = match replies.first() {
            None => {
                let path = node.path().into();
                let read = match node {
                    OrderNode::Limit | OrderNode::Volume | OrderNode::Setting => {
                        Request::Read(path)
                    }
                    _ => Request::ReadBrief(path),
                };
                self.client.within(unit, Vec::new(), Vec::from([read]));
                Vec::new()
            }
            Some(Ok(text)) if !text.is_empty() => {
                let clear = Vec::from([Request::Write(node.path().into(), Vec::new())]);
                self.client.commit(unit, clear);
                text.clone()
            }
            Some(_) => {
                self.client.abandon(unit);
                return None;
            }
        };
        Some(Job::Order { node, text })
    }

    pub(super) fn order_ended(
        &mut self,
        node: OrderNode,
        text: Vec<u8>,
        result: Result<(), TransactionError>,
    ) {
        match result {
            Ok(()) => self.actions.push_back(match node {
                OrderNode::SysRq | OrderNode::Crash => Action::Drill(text),
                OrderNode::Update => Action::Update(text),
                OrderNode::Limit => Action::Limit(text),
                OrderNode::Volume => Action::Volume(text),
                OrderNode::Setting => Action::Setting(text),
                OrderNode::Inspect => Action::Inspect(text),
            }),
            Err(TransactionError::Conflict) => self.order_due(node),
            Err(TransactionError::Refused(error)) => {
                log::warn!("{}: cannot be taken: {error}", node.path());
            }
        }
    }
}
