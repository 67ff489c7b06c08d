//! How tenants keep to their limits and share a disk by weight: what `spindle-testkit` plays in virtual
//! time, as a page with a plot.

use std::fmt::{self, Write};

use super::limits_plot;
use super::played::Played;
use crate::rig::Mark;

const HEAD: &str = "# Limits and weights\n\n\
    Written by `cargo xtask bench --limits` from `limits.txt`; do not edit by hand.\n\n\
    How tenants keep to their limits and share a disk by weight, in virtual time \
    (`drivers/testkit/src/tenants.rs`). Ring cores, workers, their sleep, NVMe queues and token buckets are \
    the product's own; disks and time are simulated, so that every run gives the same figures. A tenant is \
    a guest that keeps its rings full of reads, unless it is said otherwise. A turn of a core takes 1 us, and \
    one that sleeps wakes 5 us late. `poll_us` is 100.\n\n";

const CAPS: &str = "## Caps\n\n\
    A tenant with a ring on each core, on disks that hold nobody back. It was idle before, so that the first \
    second has its burst (10 ms). *awake*: of each core's time; *sleeps*: of each core, in a second. SPDK's own \
    tests allow 10 %, and its least limits are 1,000 IOPS and 1 MiB/s.\n\n\
    | limit | requests of | cores | a second | first | second | third | held back | awake | sleeps |\n\
    | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";

const WEIGHTS: &str = "\n## Weights\n\n\
    Three tenants with the weights 8, 16 and 32 on one core and a disk that works on 32 pages at once, 80 us \
    each: what each has of the disk, in sevenths (1, 2 and 4 are aimed at), and pages of all in a second, by \
    the size of what each reads.\n\n\
    | reads of | 1 | 2 | 4 | pages a second |\n| --- | --- | --- | --- | --- |\n";

const BESIDE: &str = "\n## Beside a flood\n\n\
    A small tenant that reads 4 KiB at a time, beside one that keeps four rings full of reads of 1 MiB, on the \
    same core and the same disk.\n\n\
    | the small tenant | mean, us | p99, us | the flood, MiB/s |\n| --- | --- | --- | --- |\n";

const HANDED: &str = "\n## What is not used\n\n\
    The last tenant stops. How long until the others have nine tenths of what it leaves, over 5 ms each.\n\n\
    | tenants | others before, IOPS | others after, IOPS | after, ms |\n| --- | --- | --- | --- |\n";

/// The comparison.
pub(super) const LIMITS: Played = Played {
    name: "limits",
    what: "tenants with limits and weights",
    sources: &[
        "drivers/blkif/src/scheduler.rs",
        "drivers/blkif/src/scheduler",
        "drivers/blkif/src/session/limit.rs",
        "drivers/limits/src",
    ],
    page,
    draw: Some(limits_plot::draw),
};

fn page(record: &[Mark], version: &str) -> Result<String, fmt::Error> {
    let mut page = HEAD.to_string();
    writeln!(page, "{version}")?;
    page.push_str(
        "![IOPS of three tenants over time](limits.svg)\n\n\
         Reads of 4 KiB by three tenants with the weights 8, 16 and 32 on one disk. From 200 to 400 ms the last \
         one pauses; from 600 ms on the second one is held to 50,000 IOPS.\n\n",
    );
    for (table, head, columns) in [
        (
            "cap",
            CAPS,
            &[
                "limit", "kib", "cores", "expected", "first", "second", "third", "held", "awake",
                "sleeps",
            ][..],
        ),
        ("weight", WEIGHTS, &["what", "one", "two", "four", "pages"]),
        (
            "beside",
            BESIDE,
            &["what", "mean_us", "p99_us", "flood_mib_s"],
        ),
        ("handed", HANDED, &["what", "before", "after", "ms"]),
    ] {
        page.push_str(head);
        for row in record.iter().filter(|mark| mark.get("table") == table) {
            for &column in columns {
                let value = row.get(column);
                match column {
                    "limit" => write!(page, "| `{value}` ")?,
                    "kib" => write!(page, "| {value} KiB ")?,
                    "held" | "awake" => write!(page, "| {value} % ")?,
                    _ => write!(page, "| {} ", value.replace('_', " "))?,
                }
            }
            page.push_str("|\n");
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_has_its_rows() {
        let record: Vec<Mark> = [
            "limits table=cap limit=iops=10 kib=4 cores=1 expected=10 first=10 second=11 third=9 held=9.5 awake=0.01 sleeps=10",
            "limits table=beside mean_us=81 p99_us=99 flood_mib_s=0 what=beside_the_flood",
        ]
        .into_iter()
        .filter_map(Mark::parse)
        .collect();
        let page = page(&record, "- Spindle abc\n").expect("written");
        for row in [
            "- Spindle abc\n",
            "| `iops=10` | 4 KiB | 1 | 10 | 10 | 11 | 9 | 9.5 % | 0.01 % | 10 |\n",
            "| beside the flood | 81 | 99 | 0 |\n",
        ] {
            assert!(page.contains(row), "{page}");
        }
    }

    #[test]
    fn the_page_is_made_of_the_record() {
        LIMITS.check_results();
    }
}
