//! What a run is made of, drawn from its seed: how many cores and guests, what goes wrong, how long it
//! lasts. A plan can be made smaller, to find what a failure needs.

use std::fmt;

use crate::chance::Chance;
use crate::faults::Kind;

/// A run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What all choices are drawn from.
    pub seed: u64,
    /// Ring cores with a vCPU of their own; 0 for one vCPU that does all.
    pub cores: usize,
    /// Frontends.
    pub guests: usize,
    /// Virtual time until the end begins, in seconds.
    pub seconds: u64,
    /// `io_timeout`, in seconds.
    pub timeout_s: u64,
    /// What may go wrong; each does half of the time, and one that is alone does often.
    pub kinds: Vec<Kind>,
}

/// A choice of what may go wrong.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What is in it.
    pub text: &'static str,
    has: fn(Kind) -> bool,
}

impl Scenario {
    /// The scenario of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        SCENARIOS.into_iter().find(|scenario| scenario.name == name)
    }
}

/// All scenarios.
pub const SCENARIOS: [Scenario; 4] = [
    Scenario {
        name: "all",
        text: "everything may go wrong",
        has: |_| true,
    },
    Scenario {
        name: "calm",
        text: "nothing goes wrong, so that no request may fail",
        has: |_| false,
    },
    Scenario {
        name: "guests",
        text: "guests and toolstack do what they like; cores, events and xenstored are slow",
        has: |kind| kind >= Kind::EventLost,
    },
    Scenario {
        name: "disks",
        text: "disks fail; guests stay",
        has: |kind| kind <= Kind::Removed,
    },
];

impl Plan {
    /// What `seed` makes of a scenario.
    #[must_use]
    pub fn draw(seed: u64, scenario: &Scenario) -> Self {
        let mut chance = Chance::new(seed ^ 0x5eed);
        let kinds = Kind::ALL
            .iter()
            .copied()
            .filter(|kind| (scenario.has)(*kind));
        let mut plan = Self {
            seed,
            cores: chance.index(9),
            guests: 1 + chance.index(8),
            seconds: chance.scale(20..600),
            timeout_s: chance.pick(&[2, 10, 30]),
            kinds: kinds.collect(),
        };
        if chance.one_in(4) && !plan.kinds.is_empty() {
            // One kind alone, and often.
            plan.kinds = vec![chance.pick(&plan.kinds)];
        } else if chance.one_in(3) {
            // A fault excuses much: what it could be blamed for is only seen without it.
            let few = chance.index(4);
            while plan.kinds.len() > few {
                let one = chance.index(plan.kinds.len());
                plan.kinds.remove(one);
            }
        }
        plan
    }

    /// Smaller plans, the smallest first.
    pub(crate) fn smaller(&self) -> Vec<Self> {
        let mut plans = Vec::new();
        let mut add = |change: &dyn Fn(&mut Self)| {
            let mut plan = self.clone();
            change(&mut plan);
            if plan != *self {
                plans.push(plan);
            }
        };
        let half = self.kinds.len() / 2;
        if self.kinds.len() > 1 {
            add(&|plan| plan.kinds.truncate(half));
            add(&|plan| drop(plan.kinds.drain(..half)));
        }
        for index in 0..self.kinds.len() {
            add(&|plan| {
                plan.kinds.remove(index);
            });
        }
        add(&|plan| plan.seconds = (plan.seconds / 2).max(1));
        add(&|plan| plan.seconds = (plan.seconds * 7 / 8).max(1));
        add(&|plan| plan.guests = 1);
        add(&|plan| plan.guests = (plan.guests - 1).max(1));
        add(&|plan| plan.cores = plan.cores.min(1));
        add(&|plan| plan.cores = plan.cores.saturating_sub(1));
        plans
    }
}

/// As the words of the command line that play it again.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "--seed {} --cores {} --guests {} --seconds {} --io-timeout {} --faults ",
            self.seed, self.cores, self.guests, self.seconds, self.timeout_s
        )?;
        if self.kinds.is_empty() {
            return f.write_str("none");
        }
        if self.kinds == Kind::ALL {
            return f.write_str("all");
        }
        for (index, kind) in self.kinds.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{kind:?}")?;
        }
        Ok(())
    }
}
