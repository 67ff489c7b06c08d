//! An operator who limits devices and groups of them, by option, in disk lines and by order, and the judge
//! of what they get: no more than that, and what is published is what holds.
//!
//! What has been answered is counted from a moment at which nothing is under way: whatever of it a later
//! window has, was also taken in that window.

use spindle_hw::PAGE_SIZE;
use spindle_limits::{IoLimits, RateKind};

use super::{Disk, Life};
use crate::chance::Chance;
use crate::front::{Phase, Used};
use crate::trace;
use crate::world::{BACKEND, SECOND};

/// The groups that there are.
const GROUPS: [&str; 2] = ["db", "web"];
/// The most pages in a request, and one more, for what the last one may have beyond what was left.
const PAGES: u64 = 49;
/// What a ring draws at once is worth so much of a second.
const DRAWS: u64 = 2_000;
/// How long it may take until all cores keep to an order that was answered.
const SETTLES_NS: u64 = 3 * SECOND;
/// How long all requests of a guest may wait for tokens.
pub(super) const HELD_NS: u64 = 200 * SECOND;
/// How long a core may be awake that has nothing else than requests that wait for tokens.
const AWAKE_NS: u64 = SECOND / 2;

/// Who is limited: a front, or a group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Front(usize),
    Group(usize),
}

/// An order without an answer.
#[derive(Debug)]
struct Order {
    word: String,
    whose: Whose,
    words: String,
    /// When it was given.
    at: u64,
    /// A life has ended since, which may have taken the order with it.
    outlived: bool,
}

/// What was answered since a moment at which nothing was under way.
#[derive(Clone, Copy, Debug)]
struct Window {
    at: u64,
    used: Used,
    /// Rings that have drawn since.
    rings: u64,
}

/// The limits of a device or group.
#[derive(Clone, Debug, Default)]
struct Bound {
    line: IoLimits,
    ordered: IoLimits,
    /// What holds, if that is certain.
    holds: Option<IoLimits>,
    /// Windows begin from then on.
    from: u64,
    used: Used,
    window: Option<Window>,
    /// When requests were last free to go after they had perhaps been held back.
    free_at: u64,
}

impl Bound {
    /// Something about it changes at `now`, and is settled at `from`.
    fn change(&mut self, now: u64, from: u64) {
        (self.window, self.from, self.free_at) = (None, from, now);
    }

    fn is_limited(&self) -> bool {
        let limited = |limits: &IoLimits| limits.limited().next().is_some();
        self.holds.as_ref().is_none_or(limited)
    }

    fn judge(&self, who: &str, now: u64) -> Result<(), String> {
        let (Some(limits), Some(window)) = (&self.holds, self.window) else {
            return Ok(());
        };
        let lasted = now - window.at + u64::from(limits.burst_ms()) * 1_000_000;
        for (kind, rate) in limits.limited() {
            let at = RateKind::ALL.iter().position(|other| *other == kind);
            let used = at.map_or(0, |at| self.used[at] - window.used[at]);
            let each = if kind.is_of_bytes() {
                PAGE_SIZE as u64
            } else {
                1
            };
            let over = if kind.is_of_bytes() { PAGES } else { 1 } * each;
            // Some more: what is used beyond a draw is owed with the next one, and parts are rounded down.
            let slack = window.rings * (2 * (rate / DRAWS).max(each) + over) + 4 * each;
            let most = u128::from(rate) * u128::from(lasted) / u128::from(SECOND);
            if u128::from(used) > most + u128::from(slack) {
                return Err(format!(
                    "{who} has had {used} of {kind:?} in {} ms, with {limits}: {} too many",
                    (now - window.at) / 1_000_000,
                    u128::from(used) - most
                ));
            }
        }
        Ok(())
    }
}

/// The operator, and the limits of each front, then of each group.
#[derive(Debug)]
pub(super) struct Limits {
    chance: Chance,
    /// There is an operator.
    acts: bool,
    defaults: IoLimits,
    bounds: Vec<Bound>,
    group_of: Vec<Option<usize>>,
    order: Option<Order>,
    orders: u64,
    /// Since when each core is awake for nothing but requests that wait for tokens.
    awake: Vec<Option<u64>>,
}

impl Limits {
    pub(super) fn new(mut chance: Chance, acts: bool, fronts: usize, cores: usize) -> Self {
        let mut bounds = vec![Bound::default(); fronts + GROUPS.len()];
        let mut defaults = IoLimits::default();
        if acts && chance.one_in(4) {
            set(&mut defaults, &words(&mut chance));
        }
        for bound in &mut bounds[fronts..] {
            if acts && chance.one_in(2) {
                set(&mut bound.line, &words(&mut chance));
            }
            bound.holds = Some(bound.line.clone());
        }
        Self {
            chance,
            acts,
            defaults,
            bounds,
            group_of: vec![None; fronts],
            order: None,
            orders: 0,
            awake: vec![None; cores],
        }
    }

    /// The options that say so.
    pub(super) fn options(&self) -> String {
        let mut options = Vec::new();
        if self.defaults != IoLimits::default() {
            options.push(format!("limits={}", self.defaults));
        }
        for (group, bound) in GROUPS.iter().zip(&self.bounds[self.group_of.len()..]) {
            if bound.line != IoLimits::default() {
                options.push(format!("group={group}:{}", bound.line));
            }
        }
        options.join(" ")
    }

    /// A device is attached: gives what its disk line has before the target.
    pub(super) fn attach(&mut self, number: usize, now: u64) -> String {
        let mut line = IoLimits::default();
        let mut text = String::new();
        self.group_of[number] = None;
        if self.acts && self.chance.one_in(3) {
            text = words(&mut self.chance) + ":";
        }
        if self.acts && self.chance.one_in(3) {
            let group = self.chance.index(GROUPS.len());
            self.group_of[number] = Some(group);
            text += &format!("group={}:", GROUPS[group]);
        }
        set(&mut line, &text);
        let bound = &mut self.bounds[number];
        bound.holds = Some(line.or(&self.defaults));
        (bound.line, bound.ordered) = (line, IoLimits::default());
        bound.change(now, now);
        text
    }

    fn bound(&self, whose: Whose) -> usize {
        match whose {
            Whose::Front(number) => number,
            Whose::Group(group) => self.group_of.len() + group,
        }
    }

    /// What limits a front: itself, and its group.
    fn of(&self, number: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        let group = self.group_of[number].map(|group| self.bound(Whose::Group(group)));
        [number].into_iter().chain(group)
    }

    /// Since when requests of a front are not held back; `None` if they may be.
    pub(super) fn free_at(&self, number: usize) -> Option<u64> {
        if !self.acts {
            return Some(0);
        }
        let mut bounds = self.of(number).map(|at| &self.bounds[at]);
        let free_at = bounds.clone().map(|bound| bound.free_at).max();
        let limited = bounds.any(Bound::is_limited);
        free_at.filter(|_| !limited)
    }

    /// Something has happened to the rings of a front.
    pub(super) fn disturb(&mut self, number: usize, now: u64) {
        if self.acts {
            for at in self.of(number) {
                self.bounds[at].change(now, now + SETTLES_NS);
            }
        }
    }

    /// A life of the kernel has ended.
    pub(super) fn outlive(&mut self, now: u64, adopted: u64) {
        for bound in &mut self.bounds {
            bound.change(now, adopted + SETTLES_NS);
        }
        if let Some(order) = &mut self.order {
            order.outlived = true;
        }
    }
}

impl Life {
    /// Has the operator order other limits; false if there is nothing to order, or an order is under way.
    pub(super) fn order_limits(&mut self, now: u64) -> bool {
        let limits = &mut self.limits;
        if limits.order.is_some() {
            return false;
        }
        let running = (0..self.fronts.len()).filter(|at| self.fronts[*at].phase == Phase::Running);
        let running: Vec<usize> = running.collect();
        let whose = match limits.chance.index(3) {
            0 => Whose::Group(limits.chance.index(GROUPS.len())),
            _ if running.is_empty() => return false,
            _ => Whose::Front(limits.chance.pick(&running)),
        };
        let who = match whose {
            Whose::Group(group) => format!("@{}", GROUPS[group]),
            Whose::Front(number) => {
                let vbd = self.fronts[number].vbd;
                format!("{}/{}", vbd.frontend, vbd.device)
            }
        };
        limits.orders += 1;
        let (word, words) = (format!("o{}", limits.orders), words(&mut limits.chance));
        let at = limits.bound(whose);
        limits.bounds[at].holds = None;
        limits.bounds[at].change(now, u64::MAX);
        let path = format!("/local/domain/{BACKEND}/data/spindle/limit");
        let text = format!("{word} {who} {words}");
        trace::text(format!("limit {text}"));
        limits.order = Some(Order {
            word,
            whose,
            words,
            at: now,
            outlived: false,
        });
        self.world.poke(|store| store.write(&path, text));
        true
    }

    /// Looks for the answer to what was ordered.
    pub(super) fn look_for_limits(&mut self) -> Result<(), String> {
        let now = self.now();
        let Some(order) = &self.limits.order else {
            return Ok(());
        };
        let answer = self.world.published("limited").unwrap_or_default();
        let answer = answer.strip_prefix(&*order.word);
        let answer = answer.and_then(|answer| answer.strip_prefix(' '));
        let whose = order.whose;
        // Who has gone since, or come back as another, may have been met or not.
        let same = match whose {
            Whose::Group(_) => true,
            Whose::Front(number) => {
                let front = &self.fronts[number];
                front.since < order.at && front.phase == Phase::Running && !front.broken
            }
        };
        let at = self.limits.bound(whose);
        let bound = &mut self.limits.bounds[at];
        // Its device may be closed, or not taken up yet, which its frontend does not see.
        let unknown = self.may_give_up || order.at < self.adopted_from;
        let gone = answer.is_some_and(|answer| answer.ends_with("has no disk here")) && unknown;
        match answer {
            Some(answer) if same && (answer == "done" || gone) => {
                if answer == "done" {
                    set(&mut bound.ordered, &order.words);
                }
                let holds = bound.ordered.or(&bound.line);
                let defaults = match whose {
                    Whose::Front(_) => self.limits.defaults.clone(),
                    Whose::Group(_) => IoLimits::default(),
                };
                bound.holds = Some(holds.or(&defaults));
                bound.change(now, now + SETTLES_NS);
            }
            Some(answer) if same => return Err(format!("a limit is not set: {answer}")),
            Some(_) => {}
            // It stays uncertain what holds.
            None if order.outlived && now - order.at > super::PATIENCE_NS => {}
            None if now - order.at > super::PATIENCE_NS && !self.may_give_up => {
                return Err("an order of limits is not answered".into());
            }
            None if now - order.at > 2 * super::PATIENCE_NS => {}
            None => return Ok(()),
        }
        self.limits.order = None;
        Ok(())
    }

    /// Counts what a front has had, and judges it.
    pub(super) fn judge_limits(&mut self, number: usize) -> Result<(), String> {
        if !self.limits.acts {
            return Ok(());
        }
        let now = self.now();
        let used = self.fronts[number].used;
        let before = std::mem::replace(&mut self.limits.bounds[number].used, used);
        let group = self.limits.group_of[number];
        let bounds: Vec<usize> = self.limits.of(number).collect();
        if let Some(&at) = bounds.get(1) {
            let sum = &mut self.limits.bounds[at].used;
            *sum = std::array::from_fn(|kind| sum[kind] + used[kind] - before[kind]);
        }
        for at in bounds {
            let is_member = |front: &&crate::front::Front| match at == number {
                true => front.number == number,
                false => self.limits.group_of[front.number] == group,
            };
            let members = self.fronts.iter().filter(is_member);
            let (mut rings, mut busy) = (0, false);
            for front in members {
                rings += front.ring_count() as u64;
                busy |= front.outstanding() > 0;
            }
            let bound = &mut self.limits.bounds[at];
            bound.judge(&format!("front {number}, or its group,"), now)?;
            if !busy && now >= bound.from {
                bound.window = Some(Window {
                    at: now,
                    used: bound.used,
                    rings,
                });
            }
        }
        Ok(())
    }

    /// What is published of a device that has long been connected.
    pub(super) fn judge_published_limits(&self, number: usize) -> Result<(), String> {
        let (bound, vbd) = (&self.limits.bounds[number], self.fronts[number].vbd);
        let Some(holds) = &bound.holds else {
            return Ok(());
        };
        let node = format!("limits/{}-{}", vbd.frontend, vbd.device);
        let published = self.world.published(&node).unwrap_or_default();
        let holds = holds.to_string();
        // A device whose disk is not back waits to be taken up.
        let waits = published.is_empty() && self.may_give_up;
        if self.limits.acts && published != holds && !waits {
            return Err(format!(
                "front {number} is published with limits \"{published}\", and has \"{holds}\""
            ));
        }
        Ok(())
    }

    /// A core was run: whether it is awake though all that it has waits for tokens. Only judged as long as
    /// nothing has gone wrong.
    pub(super) fn judge_awake(&mut self, core: usize) -> Result<(), String> {
        if !self.limits.acts || self.may_give_up || self.disturbed {
            return Ok(());
        }
        let now = self.now();
        let waits = self.fronts.iter().any(|front| front.outstanding() > 0)
            && self.polls > 0
            && now > self.adopted_from
            && self.disks.iter().all(Disk::is_idle);
        let awake = &mut self.limits.awake[core];
        if !waits || !self.world.machine.core_runs(core) {
            *awake = None;
            return Ok(());
        }
        let since = *awake.get_or_insert(now);
        match now - since > AWAKE_NS {
            true => Err(format!(
                "core {core} is busy while all it has waits for tokens"
            )),
            false => Ok(()),
        }
    }
}

/// Settings that are always good.
fn set(limits: &mut IoLimits, words: &str) {
    limits.set_all(words).expect("they are good");
}

/// A rate, or none, and how much of it may be made up for.
fn words(chance: &mut Chance) -> String {
    let rate = match chance.index(6) {
        0 => "iops=none:bandwidth=none:iops-write=none:bandwidth-read=none".into(),
        1 | 2 => format!("iops={}", chance.scale(64..65_536)),
        3 => format!("iops-write={}", chance.scale(64..65_536)),
        4 => format!("bandwidth={}", chance.scale(1 << 20..1 << 30)),
        _ => format!("bandwidth-read={}", chance.scale(1 << 20..1 << 30)),
    };
    format!("{rate}:burst={}", chance.pick(&[0, 10, 500]))
}
