//! `check` on a host that is fit, and with each thing that makes it less so.

use std::time::Duration;

use crate::create::{Failing, create};
use crate::fake::{BDF, Fake, wanted};
use crate::fault::FaultKind;
use crate::plan::{Plan, Route};
use crate::survey::{Finding, Verdict, json, survey, text, verdict};

const VCPUS: &str = "Name ID VCPU CPU State Time(s) Affinity (Hard / Soft)\n\
    Domain-0 0 0 0 r-- 91.8 0 / all\n\
    spindle 3 0 0 -b- 0.2 0 / all\n\
    spindle 3 1 1 -b- 0.2 1 / all\n";

/// A host with a disk that can be given away and a Spindle that has another.
fn fit() -> Fake {
    let mut host = Fake::serving();
    host.put("/sys/bus/pci/drivers/pciback/new_slot", "");
    host.scheduler = "credit2".into();
    host.vcpus = VCPUS.into();
    host.state.store.remove("/tool/spindlectl/spindle");
    host
}

fn look(host: &mut Fake) -> Vec<Finding> {
    let shims = ["/usr/lib/spindle/libspindle_shim.so".to_string()];
    survey(host, &[], &shims).expect("findings")
}

/// What is found of one thing, if it is not good.
fn trouble(host: &mut Fake, what: &str) -> (Verdict, String) {
    let findings = look(host);
    let mut of = findings.iter().filter(|finding| finding.what == what);
    let finding = of.find(|finding| finding.verdict != Verdict::Good);
    let finding = finding.unwrap_or_else(|| panic!("nothing wrong with {what}: {findings:?}"));
    (
        finding.verdict,
        format!("{} > {}", finding.found, finding.next),
    )
}

#[test]
fn a_host_that_is_fit_has_nothing_to_do() {
    let mut host = fit();
    let findings = look(&mut host);
    let bad: Vec<_> = findings
        .iter()
        .filter(|f| f.verdict != Verdict::Good)
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
    let looked: Vec<&str> = findings.iter().map(|finding| finding.what).collect();
    let expected = [
        "Xen",
        "IOMMU",
        "interrupts",
        "xen-pciback",
        "PVH route",
        "disk",
        "xenstore",
        "scheduler",
        "pinning",
    ];
    assert_eq!(looked, expected);
    verdict(&findings).expect("fit");
    assert!(
        host.calls.iter().all(|call| !call.changes),
        "{:?}",
        host.calls
    );
}

/// What is looked at, how it is found, with which words, and what has been done to the host.
type Case = (
    &'static str,
    Verdict,
    &'static str,
    &'static dyn Fn(&mut Fake),
);

#[test]
fn what_is_wrong_with_the_host_is_found_with_what_to_do() {
    let cases: [Case; 10] = [
        (
            "Xen",
            Verdict::Note,
            "version 4.13 > Spindle is tried with",
            &|host| {
                host.version = "xen_major : 4\nxen_minor : 13\n".into();
            },
        ),
        ("IOMMU", Verdict::Bad, "hvm_directio", &|host| {
            host.virt_caps = "hvm".into()
        }),
        (
            "interrupts",
            Verdict::Note,
            "does not remap interrupts",
            &|host| {
                host.dmesg = "(XEN) Interrupt remapping disabled\n".into();
            },
        ),
        (
            "xen-pciback",
            Verdict::Bad,
            "> `modprobe xen-pciback`",
            &|host| {
                host.state
                    .files
                    .remove("/sys/bus/pci/drivers/pciback/new_slot");
            },
        ),
        ("PVH route", Verdict::Note, "libspindle_shim.so", &|host| {
            host.state
                .files
                .remove("/usr/lib/spindle/libspindle_shim.so");
        }),
        ("disk", Verdict::Note, "/dev/nvme0n1 is mounted", &|host| {
            host.state.drivers.insert(BDF.into(), "nvme".into());
            host.put("/proc/mounts", "/dev/nvme0n1 / ext4 rw 0 0\n");
        }),
        (
            "scheduler",
            Verdict::Note,
            "credit > sched=credit2",
            &|host| {
                host.scheduler = "credit".into();
            },
        ),
        (
            "pinning",
            Verdict::Note,
            "core 1 of spindle may run on any CPU > `xl vcpu-pin 3 1",
            &|host| {
                host.vcpus = VCPUS.replace("1 / all", "all / all");
            },
        ),
        (
            "pinning",
            Verdict::Note,
            "shares CPU 0-1 with vCPU 0 of domain 0",
            &|host| {
                host.vcpus = VCPUS.replace("1 / all", "0-1 / all");
            },
        ),
        ("pinning", Verdict::Bad, "shares CPU 0 with", &|host| {
            host.vcpus = VCPUS.replace("1 / all", "0 / all");
            host.store("/local/domain/3/data/spindle/config", "poll_us=always");
        }),
    ];
    for (what, how, words, change) in cases {
        let mut host = fit();
        change(&mut host);
        let (verdict, text) = trouble(&mut host, what);
        assert!(verdict == how && text.contains(words), "{what}: {text}");
        let next = text.split(" > ").nth(1).unwrap_or_default();
        assert!(!next.is_empty(), "{text}");
    }
}

#[test]
fn a_disk_that_is_asked_for_has_to_be_free() {
    let mut host = fit();
    host.state.drivers.insert(BDF.into(), "nvme".into());
    host.put("/proc/mounts", "/dev/nvme0n1 / ext4 rw 0 0\n");
    let findings = survey(&mut host, &[BDF.into()], &[]).expect("findings");
    let error = verdict(&findings).expect_err("it is mounted");
    assert_eq!(FaultKind::of(&error), FaultKind::Unfit);
    assert!(survey(&mut host, &["nvme0".into()], &[]).is_err());
}

#[test]
fn a_disk_that_a_spindle_has_is_as_it_should_be_unless_another_is_to_have_it() {
    let mut host = Fake::with_nvme("nvme");
    host.scheduler = "credit2".into();
    host.put("/sys/bus/pci/drivers/pciback/new_slot", "");
    let plan = Plan::new(&mut host, &wanted(Route::Hvm), None).expect("a plan");
    let patience = Duration::from_secs(30);
    create(&mut host, &plan, patience, Failing::Undo, &mut |_| {}).expect("created");
    let of_disk = |findings: Vec<Finding>| {
        let disk = findings.into_iter().find(|finding| finding.what == "disk");
        disk.expect("a disk")
    };
    let disk = of_disk(look(&mut host));
    assert_eq!((disk.verdict, disk.next.as_str()), (Verdict::Good, ""));
    assert!(
        disk.found
            .starts_with("domain 3 (spindle) has 0000:01:00.0"),
        "{disk:?}"
    );
    let disk = of_disk(survey(&mut host, &[BDF.into()], &[]).expect("findings"));
    assert_eq!(disk.verdict, Verdict::Bad);
    assert!(
        disk.next.starts_with("`spindlectl destroy spindle`"),
        "{disk:?}"
    );
}

#[test]
fn a_full_xenstore_and_one_that_does_not_answer_are_found() {
    let mut host = fit();
    for node in 0..1000 {
        host.store(&format!("/local/domain/3/x/{node}"), "");
    }
    let (how, text) = trouble(&mut host, "xenstore");
    assert!(
        how == Verdict::Note && text.contains("of 1000, by default"),
        "{text}"
    );
    host.quota = "nodes                :     2000\n".into();
    let findings = look(&mut host);
    let xenstore = findings.iter().find(|finding| finding.what == "xenstore");
    assert!(xenstore.is_some_and(|f| f.verdict == Verdict::Good && f.found.ends_with("of 2000")));
}

#[test]
fn whoever_is_not_root_is_told_so_and_lines_fit() {
    let mut host = fit();
    host.is_root = false;
    let findings = look(&mut host);
    assert_eq!(
        text(&findings, 80),
        "BAD  user         this needs root\n                 > run it with sudo, in dom0"
    );
    let mut host = fit();
    host.version = "xen_major : 4\nxen_minor : 13\n".into();
    let findings = look(&mut host);
    let text = text(&findings, 80);
    assert!(
        text.starts_with("note Xen          version 4.13\n"),
        "{text}"
    );
    assert_eq!(json(&findings)[0]["verdict"], "note");
    assert_eq!(json(&findings)[1]["what"], "IOMMU");
}
