//! Spindle's idle policy beside those of the field: what `spindle-testkit` plays in virtual time, as a page
//! with the argument that follows from it, and a plot.

use std::fmt::{self, Write};

use super::idle_plot;
use super::played::Played;
use crate::rig::Mark;

const HEAD: &str = "# Idle policy\n\n\
    Written by `cargo xtask bench --idle` from `idle.txt`; do not edit by hand.\n\n\
    What a core that finds nothing costs a guest's latency and the host's processors, by a model in \
    virtual time (`drivers/testkit/src/idle.rs`) of one core, one disk and one guest that has one \
    request under way at a time and thinks between two. Spindle's decisions are the product's own code; \
    the others are models of what the field does. `drivers/blkif/tests/idle.rs` holds Spindle's to these \
    figures.\n\n";

const ARGUMENT: &str = "## The argument\n\n\
    A core without work waits for a guest or for a disk, and a wrong guess costs different things. A guest's \
    request sends an event: to sleep costs one wake-up, whenever it comes, and so spinning is worth it \
    only where requests come within `poll_us`. No event announces the end of a disk's command (the kernel has no \
    interrupts): to sleep until a time costs what that time was wrong by. One spin time for both made the \
    short waits for a quick disk keep the core spinning through its guest's pauses.\n\n\
    For a disk the core knows by ring and kind of request (reads and writes, from 32 KiB on apart, and the \
    next end of several) the mean of the waits and their mean distance from it, of which a wait counts \
    as two means at most, so that a few slow ones are not expected. How late sleeps end it measures. From that \
    follow three cases:\n\n\
    1. Where waits take the same each time, the core sleeps until shortly before the end and spins for the \
    rest. What its latency is above polling's is the wake-up for the guest's request; an interrupt costs \
    a second one.\n\
    2. Where the end is nearer than two of the shortest sleeps, it spins: a sleep would be over half its \
    length too late on average, for a saving of not much more.\n\
    3. Where waits vary, how long one has lasted says little of what is left. Sleeps of a length L end L/2 \
    too late on average, whatever the disk does, and cost no processor time but their own. So L is \
    a sixteenth of what is expected to be left, or the shortest that is worth the trip.\n\n\
    L is bounded from below by the host: a timer of Xen ends no sooner than `timer_slop` after it was set, \
    50 us by default. On such a host (*stock*) sleeps of 55 us would be late by more than half of an 80 us wait, \
    and Spindle spins for most of it, within a third of the processor time of polling; Xen's `timer_slop=5000` \
    on its command line makes it *quick*.\n\n\
    What an interrupt would add, if it could end a sleep (an event channel through MSI, on the HVM route), is \
    the row *Spindle with interrupts*. Where waits are steady it adds nothing. Where they vary and timers are \
    quick it gains some 2 us of 90; on a stock host it gains about 7 us, and could save most of the spinning: that is \
    where it is worth building. It is not there today.\n\n\
    Not modelled: several rings, several requests at a time, what a sleep itself costs the host's \
    processors (the last column has how many there are), other domains on the same processor, and idle \
    states of it.\n\n";

const COLUMNS: &str = "- *mean*, *p99*: from a guest's request to its answer, in us;\n\
    - *CPU*: for how long the core is awake for a request, in us, its guest's pause included;\n\
    - *sleeps*: how many for a request.\n\n\
    *fixed*: always so many us. *exponential*: around that mean. *bimodal*: 80 us, but 1000 in 5 of 100 cases. \
    *turns*: reads of 80 us and writes of 15 by turns. Of hybrid polling the half of the mean is modelled, \
    without what Linux does where that does not pay. NAPI polls for 2 us after work.\n\n";

/// The machines: name, and what a core's wake-up takes.
pub(super) const HOSTS: [(&str, &str); 3] = [
    (
        "quick",
        "a core wakes 5 us after an event or a timer's time",
    ),
    (
        "stock",
        "the same, but no timer ends sooner than 50 us after it was set (Xen's default)",
    ),
    (
        "slow",
        "a core wakes 30 us after an event and 60 us after a timer's time",
    ),
];

/// The policies, and what they are called.
pub(super) const POLICIES: [(&str, &str); 6] = [
    ("spindle", "Spindle"),
    ("spindle-msi", "Spindle with interrupts"),
    ("always", "always polling"),
    ("interrupts", "interrupts"),
    ("hybrid", "hybrid polling (io_uring)"),
    ("napi", "NAPI"),
];

/// The comparison.
pub(super) const IDLE: Played = Played {
    name: "idle",
    what: "idle policies",
    sources: &["drivers/blkif/src/pacer.rs", "drivers/blkif/src/wait.rs"],
    page,
    draw: Some(idle_plot::draw),
};

fn page(record: &[Mark], version: &str) -> Result<String, fmt::Error> {
    let mut page = HEAD.to_string();
    writeln!(page, "{version}")?;
    page.push_str(
        "![mean latency and processor time of a request, with 105 us of think time](idle.svg)\n\n",
    );
    page.push_str(ARGUMENT);
    page.push_str("## Figures\n\n");
    page.push_str(COLUMNS);
    for (host, what) in HOSTS {
        writeln!(page, "### {host}: {what}\n")?;
        page.push_str("| disk, us | think, us | policy | mean | p99 | CPU | sleeps |\n| --- | --- | --- | --- | --- | --- | --- |\n");
        let rows = record.iter().filter(|mark| mark.get("host") == host);
        for row in rows {
            let policy = row.get("policy");
            let title = POLICIES.iter().find(|(name, _)| *name == policy);
            writeln!(
                page,
                "| {} | {} | {} | {} | {} | {} | {} |",
                row.get("disk"),
                row.get("think"),
                title.map_or(policy, |(_, title)| *title),
                row.get("mean_us"),
                row.get("p99_us"),
                row.get("cpu_us"),
                row.get("sleeps"),
            )?;
        }
        page.push('\n');
    }
    Ok(page.trim_end().to_string() + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_a_policy_comes_to() {
        let record: Vec<Mark> = [
            "idle host=quick disk=fixed-10 think=105 policy=napi mean_us=20.3 p99_us=20 cpu_us=4.2 sleeps=2.0",
        ]
        .into_iter()
        .filter_map(Mark::parse)
        .collect();
        let page = page(&record, "- Spindle abc\n").expect("written");
        assert!(page.contains("- Spindle abc\n"), "{page}");
        let row = "| fixed-10 | 105 | NAPI | 20.3 | 20 | 4.2 | 2.0 |\n";
        assert!(page.contains(row), "{page}");
    }

    #[test]
    fn the_page_is_made_of_the_record() {
        IDLE.check_results();
    }
}
