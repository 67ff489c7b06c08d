//! The results page, in Markdown.

use std::fmt::{self, Write};

use super::plan::{self, JOBS, VARIANTS};
use super::samples::{Sample, Samples};
use super::targets::{self, Bound};
use crate::freshness::Age;
use crate::rig::Mark;

const HEAD: &str = "# Benchmark results\n\n\
    Written by `cargo xtask bench` from `record.txt`; do not edit by hand.\n\n";

const RIG: &str = "\n## Side by side under nested Xen\n\n\
    One Linux guest has a disk of each backend and runs each fio job on them in turn, so that \
    whatever disturbs the host disturbs all alike. Spindle and the Linux driver domain (an HVM guest \
    with Linux' NVMe driver and xen-blkback) each have an NVMe disk by PCI passthrough, dom0 has a \
    third; the disks are of one kind. With one queue, a driver domain has one vCPU, else one for each \
    queue and one more. All domains have `tsc_mode=\"native\"`.\n\n\
    The machine is emulated (QEMU's TCG): absolute figures say little, quotients are what counts. \
    Each cell is the median of the rounds and, in brackets, the least and the greatest. A quotient \
    is taken round by round. The processor time is that of the backend's domain in the middle of the \
    job; for dom0, without what it uses at rest. MB are 10^6 bytes; latencies are from submission \
    to completion as fio in the guest sees them; the depth is that of each queue.\n";

const HYPERCALLS: &str = "Hypercalls per I/O are notifications, sleeps and grant operations as Spindle counts them; \
    Linux does not count, and Debian's Xen has no counters for it.\n";

const HOST: &str = "\n## The hot path on the host\n\n\
    Rings, grant cache and NVMe queues natively, against a software NVMe and fake grants, for one \
    request, of 4 KiB where no size is named, or for one turn that finds nothing (`empty`). `b1`, \
    `b8`, `b32`: so many requests come together; `r1`, `r2`, `r4`: so many cores, each with a ring \
    that has requests; `idle`, `disks`: so many idle rings, or so many disks, on the core; \
    `in-turn`: so many pages are used in turn, of which a ring keeps 1,056 mapped.\n\n";

/// Writes the page; `age` says how a version relates to the sources of now.
pub(super) fn write(
    record: &[Mark],
    samples: &Samples,
    age: &dyn Fn(&str) -> Age,
) -> Result<String, fmt::Error> {
    let mut page = HEAD.to_string();
    circumstances(&mut page, record, age)?;
    page.push_str(RIG);
    clock(&mut page, samples)?;
    if !samples.queues().is_empty() {
        page.push_str("\n![IOPS and I/Os per backend CPU-second](bench.svg)\n");
    }
    verdicts(&mut page, record, samples)?;
    domains(&mut page, record)?;
    for queues in samples.queues() {
        jobs(&mut page, record, samples, queues)?;
    }
    host(&mut page, record)?;
    Ok(page)
}

fn circumstances(page: &mut String, record: &[Mark], age: &dyn Fn(&str) -> Age) -> fmt::Result {
    let marks = record.iter().filter(|mark| mark.name == "circumstances");
    let mut marks: Vec<&Mark> = marks.collect();
    marks.sort_by_key(|mark| mark.get("queues").parse().unwrap_or(0_u32));
    for mark in marks {
        writeln!(
            page,
            "- {}: {}, {} cores, Linux {}, QEMU {}{}; Debian {}, Xen {}; {}; Spindle {}{}",
            match mark.get("queues") {
                "" => "on the host".to_string(),
                "1" => "1 queue".to_string(),
                queues => format!("{queues} queues"),
            },
            mark.get("cpu"),
            mark.get("cores"),
            mark.get("linux"),
            mark.get("qemu"),
            match mark.get("cpus") {
                "" => String::new(),
                cpus => format!(" with {cpus} CPUs"),
            },
            mark.get("suite"),
            mark.get("xen"),
            mark.get("date"),
            mark.get("spindle"),
            age(mark.get("spindle")).note()
        )?;
    }
    Ok(())
}

/// The commit that the figures with so many queues are of; `""` for those of the host.
fn commit<'a>(record: &'a [Mark], queues: &str) -> &'a str {
    let mut marks = record.iter().filter(|mark| mark.name == "circumstances");
    let mark = marks.find(|mark| mark.get("queues") == queues);
    mark.map_or("unknown", |mark| mark.get("spindle"))
}

fn clock(page: &mut String, samples: &Samples) -> fmt::Result {
    let (left_out, all) = (samples.left_out, samples.left_out + samples.len());
    writeln!(
        page,
        "\nThe emulated machine's clock now and then jumps. What was measured while the host's clock \
         disagreed by more than a quarter is left out: {left_out} of {all} samples."
    )
}

fn verdicts(page: &mut String, record: &[Mark], samples: &Samples) -> fmt::Result {
    let verdicts = targets::judge(record, samples);
    if verdicts.is_empty() {
        return Ok(());
    }
    page.push_str("\n### Targets: Spindle to the Linux driver domain, and on the host\n\n");
    row(
        page,
        &["what", "quotient or figure", "target", "", "Spindle"],
    )?;
    row(page, &["---"; 5])?;
    for verdict in verdicts {
        let target = match verdict.bound {
            Bound::AtLeast(bound) => format!("at least {bound}"),
            Bound::AtMost(bound) => format!("at most {bound}"),
        };
        row(
            page,
            &[
                &verdict.what,
                &verdict.text(3),
                &target,
                verdict.outcome(),
                &commits(record, &verdict.queues),
            ],
        )?;
    }
    Ok(())
}

/// The commits of figures that were taken with these numbers of queues, each once.
fn commits(record: &[Mark], queues: &[String]) -> String {
    let mut commits: Vec<&str> = queues.iter().map(|queues| commit(record, queues)).collect();
    commits.sort_unstable();
    commits.dedup();
    commits.join(", ")
}

fn domains(page: &mut String, record: &[Mark]) -> fmt::Result {
    page.push_str("\n### Starting, memory, size\n\n");
    row(
        page,
        &[
            "backend",
            "`xl create -p`, s",
            "unpause to ready, s",
            "`xl create` to ready, s",
            "memory, MiB",
            "image, KiB",
            "Spindle",
        ],
    )?;
    row(page, &["---"; 7])?;
    for variant in VARIANTS {
        let cell = |fields: &[&str], digits| {
            targets::domain(record, variant.name, fields).map(|spread| spread.text(digits))
        };
        if let Some(memory) = cell(&["memory"], 0) {
            row(
                page,
                &[
                    variant.title,
                    &cell(&["create"], 2).unwrap_or_default(),
                    &cell(&["unpause"], 2).unwrap_or_default(),
                    &cell(&["create", "unpause"], 2).unwrap_or_default(),
                    &memory,
                    &cell(&["image"], 0).unwrap_or_default(),
                    &commits(record, &targets::boots(record, variant.name)),
                ],
            )?;
        }
    }
    page.push_str(
        "\nLinux' image is its kernel and a compressed initramfs. The memory is what each domain was \
         given, and not the least that it can do with.\n",
    );
    Ok(())
}

fn jobs(page: &mut String, record: &[Mark], samples: &Samples, queues: u32) -> fmt::Result {
    let vcpus = plan::vcpus(queues);
    write!(
        page,
        "\n### {}, {vcpus} vCPU{} in a driver domain\n\nSpindle {}.\n\n",
        targets::queues_text(queues),
        if vcpus == 1 { "" } else { "s" },
        commit(record, &queues.to_string())
    )?;
    row(
        page,
        &[
            "job",
            "backend",
            "IOPS",
            "MB/s",
            "p50, ms",
            "p99, ms",
            "backend CPU, %",
            "I/Os per backend CPU-s",
            "hypercalls per I/O",
        ],
    )?;
    row(page, &["---"; 9])?;
    for job in JOBS {
        for variant in VARIANTS {
            let cell = |figure: fn(&Sample) -> f64, digits| {
                samples
                    .spread(variant.name, job, queues, figure)
                    .map_or_else(String::new, |spread| spread.text(digits))
            };
            if samples
                .spread(variant.name, job, queues, |sample| sample.iops)
                .is_none()
            {
                continue;
            }
            row(
                page,
                &[
                    job,
                    variant.title,
                    &cell(|sample| sample.iops, 0),
                    &cell(|sample| sample.megabytes, 1),
                    &cell(|sample| sample.p50 / 1000.0, 2),
                    &cell(|sample| sample.p99 / 1000.0, 2),
                    &cell(|sample| sample.cpu * 100.0, 0),
                    &cell(|sample| sample.per_cpu, 0),
                    &cell(|sample| sample.hypercalls, 3),
                ],
            )?;
        }
    }
    write!(page, "\n{HYPERCALLS}")
}

fn host(page: &mut String, record: &[Mark]) -> fmt::Result {
    let cases: Vec<&Mark> = record.iter().filter(|mark| mark.name == "bench").collect();
    if cases.is_empty() {
        return Ok(());
    }
    page.push_str(HOST);
    write!(page, "Spindle {}.\n\n", commit(record, ""))?;
    let mut keys: Vec<&str> = cases.iter().flat_map(|mark| mark.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    // What there are targets for comes first, then the rest by name.
    let first = ["name", "instr", "ns"];
    keys.sort_by_key(|key| {
        first
            .iter()
            .position(|first| first == key)
            .unwrap_or(first.len())
    });
    row(page, &keys)?;
    row(page, &vec!["---"; keys.len()])?;
    for case in cases {
        let cells: Vec<&str> = keys.iter().map(|key| case.get(key)).collect();
        row(page, &cells)?;
    }
    Ok(())
}

fn row(page: &mut String, cells: &[&str]) -> fmt::Result {
    writeln!(page, "| {} |", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{freshness, root};

    fn marks(lines: &[&str]) -> Vec<Mark> {
        let parse = |line: &&str| Mark::parse(line).expect("a mark");
        lines.iter().map(parse).collect()
    }

    #[test]
    fn every_figure_has_its_commit_and_old_ones_are_said_to_be_stale() {
        let sample = |queues: u32, variant: &str, iops: u32| {
            format!(
                "sample queues={queues} variant={variant} job=randread-4k-32 round=1 iops={iops} \
                 kib=4 p50=1 p99=1 cpu=0.5"
            )
        };
        let mut record = marks(&[
            "circumstances spindle=ccc",
            "circumstances queues=1 spindle=aaa",
            "circumstances queues=4 spindle=bbb",
            "backend name=spindle queues=1 memory=11 create=1 unpause=1",
            "backend name=spindle queues=4 memory=11 create=1 unpause=1",
            "backend name=linux queues=4 memory=127 create=1 unpause=1",
            "bench name=persistent-read-b32-r1 instr=354 ns=15",
        ]);
        for queues in [1, 4] {
            for (variant, iops) in [("spindle", 20), ("linux", 10)] {
                record.extend(Mark::parse(&sample(queues, variant, iops)));
            }
        }
        let age = |version: &str| match version {
            "aaa" => Age::Stale,
            _ => Age::Current,
        };
        let page = write(&record, &Samples::of(&record), &age).expect("written");
        let lines: Vec<&str> = page.lines().collect();
        let line = |part: &str| {
            let mut lines = lines.iter().filter(|line| line.contains(part));
            *lines.next().unwrap_or_else(|| panic!("{part}: {page}"))
        };
        assert!(
            line("- 1 queue:")
                .ends_with("Spindle aaa (**stale**: the data path has changed since)")
        );
        assert!(line("- 4 queues:").ends_with("Spindle bbb"));
        assert!(line("IOPS, randread-4k-32, 1 queue").ends_with("| met | aaa |"));
        assert!(line("IOPS, randread-4k-32, 4 queues").ends_with("| met | bbb |"));
        assert!(line("instructions on the host").ends_with("| met | ccc |"));
        assert!(line("| memory |").ends_with("| met | aaa, bbb |"));
        assert!(line("| Spindle | 1").ends_with("| aaa, bbb |"));
        for (heading, commit) in [
            ("### 1 queue", "aaa"),
            ("### 4 queues", "bbb"),
            ("## The hot path", "ccc"),
        ] {
            let at = lines.iter().position(|line| line.starts_with(heading));
            let section = &lines[at.unwrap_or_else(|| panic!("{heading}: {page}"))..];
            assert!(
                section.contains(&format!("Spindle {commit}.").as_str()),
                "{heading}"
            );
        }
    }

    /// What the repository has is what the command writes; but the ages, which change by themselves.
    #[test]
    fn the_page_is_made_of_the_record() {
        let folder = root().join("xtask/results");
        let read = |name: &str| fs::read_to_string(folder.join(name)).expect("a result");
        let text = read("record.txt");
        let record: Vec<Mark> = text.lines().filter_map(Mark::parse).collect();
        let page = write(&record, &Samples::of(&record), &|_| Age::Current).expect("written");
        let kept = read("README.md");
        assert_eq!(freshness::without(&kept), freshness::without(&page));
    }
}
