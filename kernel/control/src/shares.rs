//! Limits and weights of devices and of groups of devices.
//!
//! Those of a device are what was ordered while it was served (`spindlectl limit`), or else what its
//! disk line says, or else what the options do. All three come from dom0: the device's directory below
//! `backend`, the options and the order's node are Spindle's own, which no guest can write. What was
//! ordered is kept over deaths of the kernel and updates, for a device until it is closed.
//!
//! A ring is given its share when it is handed to a core, and another one when anything has changed.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use spindle_blkif::RingShare;
use spindle_config::Config;
use spindle_kept::LimitRecord;
use spindle_limits::{IoLimits, Meters};
use spindle_status::path;
use spindle_xen::DomId;
use spindle_xen::xenbus::{Backend, DeviceId};

use crate::cores::Cores;
use crate::devices::{AttachedDevice, Devices};
use crate::hypervisor::Hypervisor;
use crate::published::{Published, PublishedNode, Subject};
use crate::worker::CoreWorker;

/// The limits of a device.
#[derive(Debug)]
pub(crate) struct DeviceLimits {
    /// What its disk line says.
    line: IoLimits,
    /// What holds.
    limits: IoLimits,
    meters: Arc<Meters>,
}

impl Default for DeviceLimits {
    fn default() -> Self {
        let limits = IoLimits::default();
        let meters = Arc::new(Meters::new(&limits, 0));
        Self {
            line: limits.clone(),
            limits,
            meters,
        }
    }
}

/// A group of devices. One that is only named has no limits of its own, and the usual weight.
#[derive(Debug)]
struct DeviceGroup {
    name: String,
    number: u32,
    limits: IoLimits,
    /// Whether they were ordered.
    ordered: bool,
    meters: Arc<Meters>,
}

/// What holds for devices that are not open as well.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    defaults: IoLimits,
    groups: Vec<DeviceGroup>,
    /// What was ordered of devices.
    ordered: Vec<(DeviceId, IoLimits)>,
    published: Published,
}

/// Who is meant: `GUEST/DEVICE`, or `@GROUP`.
enum Whose<'a> {
    Device(DeviceId),
    Group(&'a str),
}

impl<'a> Whose<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        if let Some(name) = text.strip_prefix('@') {
            let mut member = IoLimits::default();
            member.set_all(&format!("group={name}")).ok()?;
            return member.group().is_some().then_some(Self::Group(name));
        }
        let (guest, device) = text.split_once('/')?;
        Some(Self::Device(DeviceId {
            frontend: DomId(guest.parse().ok()?),
            device: device.parse().ok()?,
        }))
    }
}

impl Shares {
    /// By the options, and what was ordered in former lives of the kernel.
    pub(crate) fn new(config: &Config, kept: &[LimitRecord], now_ns: u64) -> Self {
        let mut shares = Self {
            defaults: config.limits.clone(),
            ..Self::default()
        };
        for (name, limits) in &config.groups {
            shares.set_group(name, limits.clone(), false, now_ns);
        }
        for LimitRecord { of, words } in kept {
            let mut limits = IoLimits::default();
            // What another version has written, and this one does not know, is left out.
            if limits.set_all(words).is_err() {
                continue;
            }
            match Whose::parse(of) {
                Some(Whose::Device(id)) => shares.ordered.push((id, limits)),
                Some(Whose::Group(name)) => shares.set_group(name, limits, true, now_ns),
                None => {}
            }
        }
        shares
    }

    /// What was ordered, to be kept.
    fn records(&self) -> Vec<LimitRecord> {
        let mut records = Vec::new();
        let mut add = |of: String, limits: &IoLimits| {
            let words = limits.to_string();
            records.push(LimitRecord { of, words });
        };
        for (id, limits) in &self.ordered {
            add(id.to_string(), limits);
        }
        for group in self.groups.iter().filter(|group| group.ordered) {
            add(format!("@{}", group.name), &group.limits);
        }
        records
    }

    /// The limits of a device with this disk line.
    pub(crate) fn limits(&mut self, id: DeviceId, line: IoLimits, now_ns: u64) -> DeviceLimits {
        let ordered = self.ordered.iter().find(|(other, _)| *other == id);
        let ordered = ordered.map_or_else(IoLimits::default, |(_, limits)| limits.clone());
        let limits = ordered.or(&line).or(&self.defaults);
        if let Some(name) = limits.group() {
            self.enter(name, now_ns);
        }
        let meters = Arc::new(Meters::new(&limits, now_ns));
        DeviceLimits {
            line,
            limits,
            meters,
        }
    }

    fn group(&self, name: &str) -> Option<&DeviceGroup> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// The group of this name, which is made if there is none.
    fn enter(&mut self, name: &str, now_ns: u64) -> &mut DeviceGroup {
        let at = self.groups.iter().position(|group| group.name == name);
        let at = at.unwrap_or_else(|| {
            let limits = IoLimits::default();
            self.groups.push(DeviceGroup {
                name: name.to_owned(),
                number: self.groups.len() as u32,
                meters: Arc::new(Meters::new(&limits, now_ns)),
                limits,
                ordered: false,
            });
            self.groups.len() - 1
        });
        &mut self.groups[at]
    }

    fn set_group(&mut self, name: &str, limits: IoLimits, ordered: bool, now_ns: u64) {
        let group = self.enter(name, now_ns);
        group.meters = Arc::new(Meters::new(&limits, now_ns));
        (group.limits, group.ordered) = (limits, ordered);
    }

    /// The share of each ring of a device; `None` if it is that of any other.
    pub(crate) fn of(&self, device: &DeviceLimits) -> Option<RingShare> {
        if device.limits == IoLimits::default() {
            return None;
        }
        Some(self.share(device))
    }

    fn share(&self, device: &DeviceLimits) -> RingShare {
        let group = device.limits.group().and_then(|name| self.group(name));
        let mut meters = Vec::from([device.meters.clone()]);
        meters.extend(group.map(|group| group.meters.clone()));
        let group = group.map(|group| (group.number, group.limits.weight()));
        RingShare::new(device.limits.weight(), group, meters)
    }

    /// Forgets what was ordered of a device; true if anything was.
    fn forget(&mut self, id: DeviceId) -> bool {
        let before = self.ordered.len();
        self.ordered.retain(|(other, _)| *other != id);
        self.ordered.len() < before
    }
}

impl<H> Devices<H> {
    /// What was ordered of a device is no longer to hold.
    pub(crate) fn forget_limits(&mut self, id: DeviceId) {
        if self.shares.forget(id) {
            self.keep_limits();
        }
    }

    fn keep_limits(&mut self) {
        self.keeper.keep_limits(self.shares.records());
        self.changed = true;
    }

    /// Publishes which limits there are.
    pub(crate) fn publish_limits(&mut self, backend: &mut Backend) {
        let mut nodes = Vec::new();
        let mut add = |subject, path: String, limits: &IoLimits| {
            if *limits != IoLimits::default() {
                nodes.push(PublishedNode {
                    subject,
                    path,
                    text: limits.to_string(),
                });
            }
        };
        for AttachedDevice { id, limits, .. } in &self.list {
            let path = path::limits(id.frontend.0, id.device);
            add(Subject::Device(*id), path, &limits.limits);
        }
        for group in &self.shares.groups {
            let path = path::group_limits(&group.name);
            add(Subject::Group(group.number), path, &group.limits);
        }
        self.shares.published.update(nodes, backend);
    }
}

impl<H: Hypervisor> Devices<H> {
    /// Carries out an order: a word that is repeated in the answer, who is meant, and what is to be other
    /// than it is. The answer goes on with `done`, or `refused` and why.
    pub(crate) fn limit<W: CoreWorker>(&mut self, order: &[u8], cores: &mut Cores<H, W>) -> String {
        let text = core::str::from_utf8(order).unwrap_or_default();
        let (word, order) = text.split_once(' ').unwrap_or((text, ""));
        match self.set_limits(order, cores) {
            Ok(()) => format!("{word} done"),
            Err(why) => format!("{word} refused: {why}"),
        }
    }

    #[inline(never)]
    fn set_limits<W: CoreWorker>(
        &mut self,
        order: &str,
        cores: &mut Cores<H, W>,
    ) -> Result<(), String> {
        let (whose, words) = order.split_once(' ').unwrap_or((order, ""));
        let now_ns = self.rings.hypervisor.now_ns();
        match Whose::parse(whose) {
            Some(Whose::Device(id)) => {
                if !self.list.iter().any(|device| device.id == id) {
                    return Err(format!("{id} has no disk here"));
                }
                let known = self.shares.ordered.iter().find(|(other, _)| *other == id);
                let mut limits = known.map_or_else(IoLimits::default, |(_, it)| it.clone());
                limits.set_all(words).map_err(|bad| bad.to_string())?;
                self.shares.forget(id);
                self.shares.ordered.push((id, limits));
            }
            Some(Whose::Group(name)) => {
                let known = self.shares.group(name);
                let mut limits = known.map_or_else(IoLimits::default, |it| it.limits.clone());
                limits.set_all(words).map_err(|bad| bad.to_string())?;
                if limits.names_group() {
                    return Err("a group is in no other group".into());
                }
                self.shares.set_group(name, limits, true, now_ns);
            }
            None => return Err(format!("\"{whose}\" is neither GUEST/DEVICE nor @GROUP")),
        }
        for device in &mut self.list {
            let is_meant = match Whose::parse(whose) {
                Some(Whose::Device(id)) => device.id == id,
                Some(Whose::Group(name)) => device.limits.limits.group() == Some(name),
                None => false,
            };
            if is_meant {
                let line = device.limits.line.clone();
                device.limits = self.shares.limits(device.id, line, now_ns);
                for ring in &mut device.rings {
                    ring.share(Box::new(self.shares.share(&device.limits)), cores);
                }
            }
        }
        self.keep_limits();
        Ok(())
    }
}
