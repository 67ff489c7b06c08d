//! Plans for both routes, and what is refused before anything is done.

use anyhow::Result;

use crate::fake::{BDF, Fake, wanted};
use crate::pci::Bdf;
use crate::plan::{Plan, PlanStep, Route, Wanted};
use crate::xlcfg::XlConfig;

/// A configuration that lacks nothing.
const PVH: &str = "type='pvh'\nname='x'\nkernel='/usr/lib/spindle/spindle.elf'\n";

fn refusal(host: &mut Fake, wanted: &Wanted) -> String {
    let error = Plan::new(host, wanted, None).expect_err("refused");
    assert!(
        host.calls.iter().all(|call| !call.changes),
        "nothing is changed"
    );
    format!("{error:#}")
}

#[test]
fn the_pvh_route_places_registers_and_attaches_after_creation() -> Result<()> {
    let mut host = Fake::with_nvme("nvme");
    let mut wanted = wanted(Route::Pvh);
    wanted.knobs.push("poll_us=50".into());
    let plan = Plan::new(&mut host, &wanted, None)?;
    let bdf: Bdf = BDF.parse()?;
    let [
        PlanStep::Note,
        PlanStep::Take(taken),
        PlanStep::Keep(_),
        PlanStep::Configure(text),
        PlanStep::Create(Some(shim)),
        PlanStep::Attach(attached),
        PlanStep::Enable(enabled),
        PlanStep::Unpause,
        PlanStep::Await,
    ] = &plan.steps[..]
    else {
        panic!("{:?}", plan.steps);
    };
    assert_eq!((*taken, *attached, *enabled), (bdf, bdf, bdf));
    assert_eq!(shim, "/usr/lib/spindle/libspindle_shim.so");
    let config = XlConfig::parse(text)?;
    assert_eq!(config.text("type")?, Some("pvh"));
    assert_eq!(config.list("iomem")?, ["febf8,4@e0000"]);
    assert_eq!(config.text("cmdline")?, Some("poll_us=50 nvme0=e0000,4"));
    assert!(!config.has("pci"), "xl refuses it");
    Ok(())
}

#[test]
fn of_a_large_bar_only_the_registers_are_mapped() -> Result<()> {
    for end in ["0x387fffffff", "0x383fffffff", "0x3fffffffff"] {
        let mut host = Fake::with_nvme("pciback");
        let bdf: Bdf = BDF.parse()?;
        let bar = format!("0x3800000000 {end} 0x14220c\n");
        host.put(&bdf.sysfs("resource"), &bar);
        let plan = Plan::new(&mut host, &wanted(Route::Pvh), None)?;
        let configured = plan.steps.iter().find_map(|step| match step {
            PlanStep::Configure(text) => Some(text),
            _ => None,
        });
        let config = XlConfig::parse(configured.expect("a configuration"))?;
        assert_eq!(config.list("iomem")?, ["3800000,1000@e0000"]);
        assert_eq!(config.text("cmdline")?, Some("nvme0=e0000,1000"));
    }
    Ok(())
}

#[test]
fn the_hvm_route_is_what_stock_xl_does_with_knobs_in_xenstore() -> Result<()> {
    let mut host = Fake::with_nvme("pciback");
    let mut wanted = wanted(Route::Hvm);
    wanted.config = Some(format!(
        "name='store'\ntype='hvm'\nfirmware_override='/usr/lib/spindle/spindle.elf'\n\
         pci=['{BDF}']\ncmdline='ram0=8M'\non_crash='rename-restart'\non_watchdog='preserve'\n"
    ));
    wanted.knobs = vec!["queues=2".into()];
    let plan = Plan::new(&mut host, &wanted, None)?;
    let [
        PlanStep::Note,
        PlanStep::Keep(_),
        PlanStep::Configure(text),
        PlanStep::Create(None),
        PlanStep::Knobs(knobs),
        PlanStep::Unpause,
        PlanStep::Await,
    ] = &plan.steps[..]
    else {
        panic!("{:?}", plan.steps);
    };
    assert_eq!(knobs, "ram0=8M queues=2");
    let config = XlConfig::parse(text)?;
    assert_eq!(config.list("pci")?, [BDF]);
    assert_eq!(
        config.text("firmware_override")?,
        Some("/usr/lib/spindle/spindle.elf")
    );
    assert!(plan.record.taken.is_empty() && !config.has("cmdline"));
    // What xl would do by itself, spindlectl would not know of.
    for (key, action) in [
        ("on_reboot", "destroy"),
        ("on_crash", "destroy"),
        ("on_soft_reset", "destroy"),
        ("on_watchdog", "preserve"),
    ] {
        assert_eq!(config.text(key)?, Some(action), "{key}");
    }
    Ok(())
}

#[test]
fn the_steps_are_shown_as_lines_that_a_shell_can_run() -> Result<()> {
    let mut host = Fake::with_nvme("nvme");
    let mut wanted = wanted(Route::Hvm);
    wanted.knobs.extend(["queues=2".into(), "ram0=8M".into()]);
    let plan = Plan::new(&mut host, &wanted, None)?;
    let lines = plan.steps.iter().map(|step| step.shell(&plan.record));
    let script = lines.collect::<Vec<_>>().join("\n");
    // Nothing else makes this folder, and only xl knows the number.
    let (folder, file) = ("mkdir -p -m 700 /run/spindlectl", "cat > /run/spindlectl");
    assert!(
        script.contains(folder) && script.find(folder) < script.find(file),
        "{script}"
    );
    let home = "/local/domain/$(xl domid spindle)/data/spindle";
    for line in [
        format!("xenstore-write {home}/config 'queues=2 ram0=8M'\n"),
        format!("until xenstore-exists {home}/ready; do"),
    ] {
        assert!(script.contains(&line), "{script}");
    }
    Ok(())
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_done() {
    let mut host = Fake::with_nvme("nvme");
    host.is_root = false;
    assert!(refusal(&mut host, &wanted(Route::Hvm)).contains("sudo"));

    let mut host = Fake::with_nvme("nvme");
    host.virt_caps = "pv hvm hap".into();
    assert!(refusal(&mut host, &wanted(Route::Hvm)).contains("iommu=off"));

    let mut host = Fake::with_nvme("nvme");
    host.state
        .files
        .remove("/usr/lib/spindle/libspindle_shim.so");
    assert!(refusal(&mut host, &wanted(Route::Pvh)).contains("spindlectl-shim"));

    let mut host = Fake::with_nvme("nvme");
    host.state.files.remove("/usr/lib/spindle/spindle.elf");
    assert!(refusal(&mut host, &wanted(Route::Pvh)).contains("cargo xtask build"));

    let mut host = Fake::with_nvme("pciback");
    let id = host.add_domain("other", "another-uuid");
    host.store(&format!("/local/domain/0/backend/pci/{id}/0/dev-0"), BDF);
    assert!(refusal(&mut host, &wanted(Route::Hvm)).contains("xl shutdown"));
    host.end("other");
    assert!(Plan::new(&mut host, &wanted(Route::Hvm), None).is_ok());

    let mut host = Fake::with_nvme("nvme");
    host.add_domain("spindle", "another-uuid");
    assert!(refusal(&mut host, &wanted(Route::Hvm)).contains("runs already"));

    let mut host = Fake::with_nvme("nvme");
    host.store("/tool/spindlectl/spindle", "uuid=1 config=/run/x taken=");
    assert!(refusal(&mut host, &wanted(Route::Hvm)).contains("spindlectl destroy spindle"));

    let mut host = Fake::with_nvme("nvme");
    let bad = |change: &dyn Fn(&mut Wanted)| {
        let mut wanted = wanted(Route::Pvh);
        change(&mut wanted);
        wanted
    };
    for (wanted, word) in [
        (bad(&|w| w.memory = Some(4096)), "3072"),
        (bad(&|w| w.pci = vec!["0000:09:00.0".into()]), "lspci"),
        (
            bad(&|w| w.pci = vec![format!("{BDF},seize=1")]),
            "not supported",
        ),
        (
            bad(&|w| w.pci = vec![BDF.into(), "01:00.0".into()]),
            "named twice",
        ),
        (
            bad(&|w| w.knobs = vec!["pol_us=1".into()]),
            "did you mean \"poll_us\"",
        ),
        (
            bad(&|w| w.knobs = vec!["log=info xx".into()]),
            "without blanks",
        ),
        (
            bad(&|w| w.config = Some(format!("{PVH}cmdline='debug_port pol_us=1'"))),
            "cmdline pol_us=1: unknown option \"pol_us\"; did you mean \"poll_us\"",
        ),
        (
            bad(&|w| w.config = Some(format!("{PVH}cmdline='debug_ports'"))),
            "cmdline debug_ports: unknown option",
        ),
        (
            bad(&|w| w.config = Some(format!("{PVH}memory='64M'"))),
            "memory=64M: a number of MiB",
        ),
        (bad(&|w| w.name = Some("a b".into())), "no name"),
        (bad(&|w| w.name = Some("../x".into())), "no name"),
        (bad(&|w| w.name = Some("spindle.a".into())), "no name"),
        (bad(&|w| w.config = Some("type='pv'".into())), "\"pvh\""),
        (
            bad(&|w| w.config = Some("type='hvm'".into())),
            "contradicts",
        ),
        (bad(&|w| w.config = Some("type=".into())), "line 1"),
        (
            bad(&|w| {
                w.config = Some(
                    "type='pvh'\nname='x'\nkernel='/usr/lib/spindle/spindle.elf'\niomem=['1,1@2']"
                        .into(),
                )
            }),
            "iomem",
        ),
    ] {
        let text = refusal(&mut host, &wanted);
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn a_users_configuration_keeps_its_other_lines() -> Result<()> {
    let mut host = Fake::with_nvme("nvme");
    let mut wanted = wanted(Route::Pvh);
    wanted.route = None;
    wanted.config = Some(format!(
        "name='store'\ntype='pvh'\nkernel='/usr/lib/spindle/spindle.elf'\ncpus='2-3'\n\
         cmdline='log=debug'\npci=['{BDF}']\n"
    ));
    let plan = Plan::new(&mut host, &wanted, None)?;
    let text = plan.steps.iter().find_map(|step| match step {
        PlanStep::Configure(text) => Some(text.clone()),
        _ => None,
    });
    let text = text.expect("a configuration");
    assert!(text.contains("cpus = '2-3'\n"), "{text}");
    assert!(text.contains("on_reboot = \"destroy\"\n"), "{text}");
    assert!(
        text.contains("cmdline = \"log=debug nvme0=e0000,4\"\n"),
        "{text}"
    );
    assert_eq!(plan.record.name, "store");
    Ok(())
}
