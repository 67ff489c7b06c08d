//! `check`: whether this host is fit for Spindle. Each finding says what to do about it; nothing is changed.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};
use spindle_status::path;

use crate::domains::Domains;
use crate::fault::FaultKind;
use crate::host::{Call, Host, found};
use crate::pci::{Bdf, PciDevice};
use crate::sheet::wrap;
use crate::spindle::Spindle;
use crate::tables::text as shown;
use crate::{assign, check, store};

/// The first release of Xen that Spindle is made for.
const XEN: (u32, u32) = (4, 17);
/// Nodes that xenstored lets a domain have by default.
const NODES: u64 = 1000;

/// How a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As it should be.
    Good,
    /// It works, but could be better; or it could not be looked at.
    Note,
    /// Spindle cannot work like this.
    Bad,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Note => "note",
            Self::Bad => "BAD",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// How it is.
    pub(crate) verdict: Verdict,
    /// What was looked at.
    pub(crate) what: &'static str,
    /// What was found.
    pub(crate) found: String,
    /// What to do about it.
    pub(crate) next: String,
}

impl Finding {
    fn new(
        verdict: Verdict,
        what: &'static str,
        found: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self {
            verdict,
            what,
            found: found.into(),
            next: next.into(),
        }
    }

    /// What a check of `create` says: its cause, and after a line or a semicolon what to do.
    fn of(what: &'static str, good: &str, checked: Result<()>) -> Self {
        let Err(error) = checked else {
            return Self::new(Verdict::Good, what, good, "");
        };
        let text = format!("{error:#}");
        let (found, next) = parted(&text);
        Self::new(Verdict::Bad, what, found, next)
    }
}

/// A message as its cause and what to do.
fn parted(text: &str) -> (&str, &str) {
    let parted = text.split_once('\n').or_else(|| text.split_once("; "));
    parted.unwrap_or((text, ""))
}

/// Looks at everything; at these disks, or at all that there are.
///
/// # Errors
/// If an address is none.
pub(crate) fn survey(
    host: &mut impl Host,
    disks: &[String],
    shims: &[String],
) -> Result<Vec<Finding>> {
    let disks: Result<Vec<Bdf>> = disks.iter().map(|disk| disk.parse()).collect();
    let disks = disks?;
    if host.user() != 0 {
        let next = "run it with sudo, in dom0";
        return Ok(vec![Finding::new(
            Verdict::Bad,
            "user",
            "this needs root",
            next,
        )]);
    }
    let info = match host.run(&Call::look("xl", ["info"])) {
        Ok(info) => info,
        Err(error) => {
            let next = "is this dom0 of a Xen that runs? Debian's package is xen-utils";
            let xen = Finding::new(Verdict::Bad, "Xen", error.to_string(), next);
            return Ok(vec![xen]);
        }
    };
    let mut all = vec![
        version(&info),
        Finding::of("IOMMU", "Xen uses it", check::iommu(host)),
    ];
    all.push(match check::remapping(host) {
        None => Finding::new(Verdict::Good, "interrupts", "Xen remaps them", ""),
        Some(risk) => {
            let (found, next) = parted(&risk);
            Finding::new(Verdict::Note, "interrupts", found, next)
        }
    });
    all.push(pciback(host));
    all.push(pvh(host, shims));
    all.extend(of_disks(host, &disks));
    all.extend(quota(host));
    all.extend(processors(host, &info));
    Ok(all)
}

/// The value of a line of `xl info`.
fn line<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = info.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(name, _)| name.trim() == key)?;
    Some(value.trim())
}

fn version(info: &str) -> Finding {
    let number = |key: &str| line(info, key)?.parse::<u32>().ok();
    let Some((major, minor)) = number("xen_major").zip(number("xen_minor")) else {
        let found = "`xl info` does not say which Xen this is";
        return Finding::new(Verdict::Note, "Xen", found, "");
    };
    let found = format!("version {major}.{minor}");
    if (major, minor) < XEN {
        let next = format!("Spindle is tried with Xen {}.{} and later", XEN.0, XEN.1);
        return Finding::new(Verdict::Note, "Xen", found, next);
    }
    Finding::new(Verdict::Good, "Xen", found, "")
}

/// Whether dom0 can hold disks for other domains.
fn pciback(host: &mut impl Host) -> Finding {
    match found(host.list("/sys/bus/pci/drivers/pciback")) {
        Ok(Some(_)) => Finding::new(Verdict::Good, "xen-pciback", "it is there", ""),
        Ok(None) => {
            let next = "`modprobe xen-pciback`, and name it in /etc/modules";
            Finding::new(Verdict::Bad, "xen-pciback", "dom0 has not loaded it", next)
        }
        Err(error) => Finding::new(Verdict::Note, "xen-pciback", error.to_string(), ""),
    }
}

/// Whether the PVH route is open; the HVM route needs none of this.
fn pvh(host: &mut impl Host, shims: &[String]) -> Finding {
    let checked = check::shim(host, shims).and_then(|_| check::shim_fits(host));
    match checked {
        Ok(None) => Finding::new(Verdict::Good, "PVH route", "it can be used", ""),
        Ok(Some(doubt)) => {
            let (found, next) = parted(&doubt);
            Finding::new(Verdict::Note, "PVH route", found, next)
        }
        Err(error) => {
            let text = format!("{error:#}");
            let (found, next) = parted(&text);
            Finding::new(Verdict::Note, "PVH route", found, next)
        }
    }
}

/// Each disk: who has it, or that a domain can have it.
fn of_disks(host: &mut impl Host, asked: &[Bdf]) -> Vec<Finding> {
    let all = match asked {
        [] => match candidates(host) {
            Ok(all) => all,
            Err(error) => {
                let found = format!("cannot look for disks: {error:#}");
                return vec![Finding::new(Verdict::Note, "disks", found, "")];
            }
        },
        asked => asked.to_vec(),
    };
    if all.is_empty() {
        let next = "behind Intel VMD or a RAID controller they are hidden: switch that off in the firmware";
        let found = "no NVMe controller and no virtio disk is a PCI device of its own";
        return vec![Finding::new(Verdict::Note, "disks", found, next)];
    }
    let domains = Domains::look(host);
    let mut findings = Vec::new();
    for bdf in all {
        let free = match &domains {
            Ok(domains) => assign::ensure_free(host, domains, bdf, None),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        };
        if let Err(error) = free {
            let text = format!("{error:#}");
            let (found, next) = parted(&text);
            findings.push(match FaultKind::of(&error) {
                // One that a domain has is in use as it should be, but where another one is to have it.
                FaultKind::Refused if asked.is_empty() => {
                    Finding::new(Verdict::Good, "disk", found, "")
                }
                FaultKind::Refused => Finding::new(Verdict::Bad, "disk", found, next),
                _ => Finding::new(Verdict::Note, "disk", found, next),
            });
            continue;
        }
        findings.push(match PciDevice::inspect(host, bdf) {
            Ok(disk) if disk.is_assignable() => {
                let found = format!("{bdf} is with xen-pciback, ready to be given to a domain");
                Finding::new(Verdict::Good, "disk", found, "")
            }
            Ok(disk) => {
                let driver = disk.driver.map(|driver| format!("its driver {driver}"));
                let driver = driver.unwrap_or_else(|| "no driver".into());
                let found = format!("{bdf} can be given to a domain; dom0 has it now, with {driver}");
                let next = format!(
                    "xen-pciback.hide=({bdf}) on dom0's command line keeps dom0 from reading it at each boot"
                );
                Finding::new(Verdict::Good, "disk", found, next)
            }
            Err(error) => {
                let text = format!("{error:#}");
                let (found, next) = parted(&text);
                // Only one that was asked for has to be free.
                let verdict = if asked.is_empty() {
                    Verdict::Note
                } else {
                    Verdict::Bad
                };
                Finding::new(verdict, "disk", found, next)
            }
        });
    }
    findings
}

/// All PCI functions that are disks.
fn candidates(host: &mut impl Host) -> Result<Vec<Bdf>> {
    const ALL: &str = "/sys/bus/pci/devices";
    let mut bdfs = Vec::new();
    for name in found(host.list(ALL))?.unwrap_or_default() {
        let Ok(bdf) = name.parse::<Bdf>() else {
            continue;
        };
        let mut file = |file: &str| found(host.read(&bdf.sysfs(file)));
        let class = file("class")?.unwrap_or_default();
        let vendor = file("vendor")?.unwrap_or_default();
        let is_virtio =
            vendor.trim() == "0x1af4" && ["0x010000", "0x018000"].contains(&class.trim());
        if class.trim() == "0x010802" || is_virtio {
            bdfs.push(bdf);
        }
    }
    Ok(bdfs)
}

/// Whether xenstored lets a Spindle publish all that it has.
fn quota(host: &mut impl Host) -> Vec<Finding> {
    let spindles = match Spindle::all(host) {
        Ok(spindles) => spindles,
        Err(error) => {
            let text = format!("{error:#}");
            let (found, next) = parted(&text);
            return vec![Finding::new(Verdict::Bad, "xenstore", found, next)];
        }
    };
    if spindles.is_empty() {
        return vec![Finding::new(Verdict::Good, "xenstore", "it answers", "")];
    }
    // Only some xenstored can be asked; what they say differs but for the name and the number.
    let asked = host.run(&Call::look("xenstore-control", ["quota"]));
    let most = asked.ok().and_then(|text| {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with("nodes"))?;
        line.split([' ', ':', '\t'])
            .find_map(|word| word.parse::<u64>().ok())
    });
    let known = if most.is_some() { "" } else { ", by default" };
    let most = most.unwrap_or(NODES);
    let mut findings = Vec::new();
    for spindle in spindles {
        let (home, name) = (store::home(spindle.id), shown(&spindle.name));
        let Ok(nodes) = store::tree(host, &home) else {
            continue;
        };
        let count = nodes.len() as u64;
        let found = format!("{name} has {count} nodes of {most}{known}");
        findings.push(if count.saturating_mul(10) > most.saturating_mul(9) {
            let next =
                "fewer disks and devices, or xenstored with a larger quota (--quota nodes=N)";
            Finding::new(Verdict::Note, "xenstore", found, next)
        } else {
            Finding::new(Verdict::Good, "xenstore", found, "")
        });
    }
    findings
}

/// A vCPU as `xl vcpu-list` has it.
struct Vcpu<'a> {
    domain: u32,
    number: u32,
    /// The processors that it may run on: `all`, `0-3`.
    affinity: &'a str,
}

fn vcpus(text: &str) -> Vec<Vcpu<'_>> {
    let vcpu = |line| {
        let words: Vec<&str> = str::split_whitespace(line).collect();
        // A name has no blanks; the last are `HARD / SOFT`.
        let [_, domain, number, ..] = words[..] else {
            return None;
        };
        let slash = words.iter().position(|word| *word == "/")?;
        Some(Vcpu {
            domain: domain.parse().ok()?,
            number: number.parse().ok()?,
            affinity: words.get(slash.checked_sub(1)?)?,
        })
    };
    text.lines().filter_map(vcpu).collect()
}

/// The processors of an affinity of this many.
fn processors_of(affinity: &str, count: u32) -> Vec<u32> {
    let parts = affinity.split(',').filter_map(|part| {
        if part == "all" {
            return Some(0..=count.saturating_sub(1));
        }
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    parts.flat_map(|part| part.take(4096)).collect()
}

/// The scheduler, and whether ring cores have processors to themselves: one that polls takes all of its
/// own.
fn processors(host: &mut impl Host, info: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let scheduler = line(info, "xen_scheduler").unwrap_or("unknown");
    findings.push(match scheduler {
        "credit2" | "null" => Finding::new(Verdict::Good, "scheduler", scheduler, ""),
        other => Finding::new(
            Verdict::Note,
            "scheduler",
            other,
            "sched=credit2 on Xen's command line wakes a core that sleeps sooner",
        ),
    });
    let Ok(text) = host.run(&Call::look("xl", ["vcpu-list"])) else {
        return findings;
    };
    let all = vcpus(&text);
    let count = line(info, "nr_cpus").and_then(|count| count.parse().ok());
    let count = count.unwrap_or(1);
    let spindles = Spindle::all(host).unwrap_or_default();
    for spindle in spindles {
        let name = shown(&spindle.name);
        let config = store::read(
            host,
            &format!("{}/{}", store::home(spindle.id), path::CONFIG),
        );
        let polls = config.is_ok_and(|config| config.is_some_and(|c| c.contains("poll_us=always")));
        for vcpu in all
            .iter()
            .filter(|vcpu| vcpu.domain == spindle.id && vcpu.number > 0)
        {
            let own = processors_of(vcpu.affinity, count);
            let core = vcpu.number;
            let shares = |other: &&Vcpu<'_>| {
                let same = (other.domain, other.number) == (vcpu.domain, core);
                let theirs = processors_of(other.affinity, count);
                !same && theirs.iter().any(|cpu| own.contains(cpu))
            };
            let verdict = if polls { Verdict::Bad } else { Verdict::Note };
            if own.len() as u32 >= count && count > 1 {
                findings.push(Finding::new(
                    verdict,
                    "pinning",
                    format!("core {core} of {name} may run on any CPU"),
                    format!(
                        "`xl vcpu-pin {} {core} CPU` gives it one, cpus= does from the start",
                        spindle.id
                    ),
                ));
            } else if let Some(other) = all.iter().find(shares) {
                findings.push(Finding::new(
                    verdict,
                    "pinning",
                    format!(
                        "core {core} of {name} shares CPU {} with vCPU {} of domain {}",
                        vcpu.affinity, other.number, other.domain
                    ),
                    "dom0_max_vcpus=N dom0_vcpus_pin on Xen's command line keep dom0 on the first N CPUs",
                ));
            } else {
                let found = format!("core {core} of {name} has CPU {} to itself", vcpu.affinity);
                findings.push(Finding::new(Verdict::Good, "pinning", found, ""));
            }
        }
    }
    findings
}

/// As lines of so many characters, what to do below each.
pub(crate) fn text(findings: &[Finding], width: usize) -> String {
    let mut out = String::new();
    for finding in findings {
        let (verdict, what) = (finding.verdict.name(), finding.what);
        let lead = format!("{verdict:<4} {what:<12} ");
        let _ = writeln!(out, "{}", wrap(&lead, &finding.found, width));
        if !finding.next.is_empty() {
            let lead = format!("{:>17}> ", "");
            let _ = writeln!(out, "{}", wrap(&lead, &finding.next, width));
        }
    }
    out.trim_end().to_string()
}

/// As JSON.
pub(crate) fn json(findings: &[Finding]) -> Value {
    let all = findings.iter().map(|finding| {
        let Finding {
            verdict,
            what,
            found,
            next,
        } = finding;
        json!({ "verdict": verdict.name(), "what": what, "found": found, "next": next })
    });
    Value::from_iter(all)
}

/// The status that the findings come to.
///
/// # Errors
/// If one keeps Spindle from working.
pub(crate) fn verdict(findings: &[Finding]) -> Result<()> {
    let bad = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Bad);
    match bad.count() {
        0 => Ok(()),
        1 => Err(FaultKind::Unfit.error("one thing keeps Spindle from working here")),
        bad => Err(FaultKind::Unfit.error(format!("{bad} things keep Spindle from working here"))),
    }
}
