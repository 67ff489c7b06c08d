//! What is measured: the backends, the jobs, and how many queues.

use anyhow::{Result, ensure};

/// Who serves a disk.
pub(super) struct Variant {
    /// Its name on the command line and in the record.
    pub(super) name: &'static str,
    /// Its name on the page.
    pub(super) title: &'static str,
}

/// The variant that the others are compared to.
pub(super) const BASELINE: &str = "linux";

/// All variants, in the order in which each job is run on them.
pub(super) const VARIANTS: &[Variant] = &[
    Variant {
        name: "spindle",
        title: "Spindle",
    },
    Variant {
        name: BASELINE,
        title: "Linux driver domain",
    },
    Variant {
        name: "dom0",
        title: "dom0 blkback",
    },
    Variant {
        name: "ram",
        title: "Spindle, RAM disk",
    },
];

/// All jobs: access, block size in bytes and depth for each queue.
pub(super) const JOBS: &[&str] = &[
    "randread-4k-1",
    "randwrite-4k-1",
    "randread-4k-32",
    "randwrite-4k-32",
    "read-128k-8",
    "write-128k-8",
];

/// What one boot of the rig measures.
pub(super) struct Plan {
    /// Names of [`VARIANTS`].
    pub(super) variants: Vec<&'static str>,
    /// Some of [`JOBS`].
    pub(super) jobs: Vec<&'static str>,
    /// How often each job is run.
    pub(super) reps: u32,
    /// Seconds that a job runs, after [`WARM_UP`].
    pub(super) seconds: u32,
}

/// Seconds that a job runs before anything is counted.
const WARM_UP: u32 = 2;

impl Plan {
    /// Chooses by comma-separated names; an empty list takes everything.
    ///
    /// # Errors
    /// A name that there is not, or a job too short to be measured.
    pub(super) fn new(variants: &str, jobs: &str, reps: u32, seconds: u32) -> Result<Self> {
        ensure!(reps >= 1, "--reps is at least 1");
        ensure!(
            seconds >= 3,
            "--seconds is at least 3: processor time is measured in the middle of a job"
        );
        let all: Vec<&'static str> = VARIANTS.iter().map(|variant| variant.name).collect();
        Ok(Self {
            variants: choose("variant", &all, variants)?,
            jobs: choose("job", JOBS, jobs)?,
            reps,
            seconds,
        })
    }

    /// Seconds that a job takes by the guest's clock.
    pub(super) fn job_seconds(&self) -> f64 {
        f64::from(WARM_UP + self.seconds)
    }

    /// Samples of one round.
    pub(super) fn runs(&self) -> usize {
        self.variants.len() * self.jobs.len()
    }

    /// The settings of dom0's script, which begins with round `first`.
    pub(super) fn settings(&self, queues: u32, first: u32) -> String {
        format!(
            "VARIANTS={} JOBS={} FIRST={first} REPS={} RUNTIME={} QUEUES={queues} VCPUS={} GUEST_VCPUS={queues}",
            self.variants.join(","),
            self.jobs.join(","),
            self.reps,
            self.seconds,
            vcpus(queues)
        )
    }

    /// About how many seconds dom0 needs from round `first` on, with an even-tempered host.
    pub(super) fn duration(&self, first: u32) -> u64 {
        let rounds = u64::from((self.reps + 1).saturating_sub(first));
        120 + rounds * self.runs() as u64 * (u64::from(self.seconds) + 6)
    }
}

/// vCPUs of a driver domain: one that does everything, or one for each queue and one more.
pub(super) fn vcpus(queues: u32) -> u32 {
    if queues == 1 { 1 } else { queues + 1 }
}

/// Emulated processors: one for each vCPU of dom0, a driver domain and the guest, but only one more
/// than the host has cores. Xen does not know of processors that the host takes away from it: what
/// waits for one of those waits for milliseconds, on any backend.
pub(super) fn cpus(queues: u32) -> u32 {
    let cores = std::thread::available_parallelism().map_or(2, usize::from) as u32;
    (1 + vcpus(queues) + queues).min(cores + 1)
}

fn choose(what: &str, all: &[&'static str], chosen: &str) -> Result<Vec<&'static str>> {
    let wanted: Vec<&str> = chosen.split(',').filter(|name| !name.is_empty()).collect();
    for name in &wanted {
        ensure!(
            all.contains(name),
            "there is no {what} {name}; there are: {}",
            all.join(" ")
        );
    }
    Ok(all
        .iter()
        .copied()
        .filter(|name| wanted.is_empty() || wanted.contains(name))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_chosen_in_the_order_of_the_plan_and_wrong_ones_refused() {
        let plan = Plan::new("dom0,spindle", "", 3, 8).expect("a plan");
        assert_eq!(plan.variants, ["spindle", "dom0"]);
        assert_eq!(plan.jobs, JOBS);
        assert!(Plan::new("spindel", "", 3, 8).is_err());
        assert!(Plan::new("", "", 3, 2).is_err());
    }
}
