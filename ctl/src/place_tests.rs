//! Where registers may go, how much memory leaves room for them, and that xl restarts no domain
//! that has a disk.

use anyhow::Result;

use crate::fake::{BDF, Fake};
use crate::pci::{Bdf, PciDevice};
use crate::place::{never_restart, place};
use crate::xlcfg::XlConfig;

fn placed(config: &str, bar: &str) -> Result<String> {
    let mut host = Fake::with_nvme("nvme");
    let bdf: Bdf = BDF.parse()?;
    host.put(&bdf.sysfs("resource"), bar);
    let device = PciDevice::inspect(&mut host, bdf)?;
    let mut config = XlConfig::parse(config)?;
    let knobs = place(&mut host, &mut config, &[device])?;
    Ok(format!(
        "{} {}",
        config.list("iomem")?.join(" "),
        knobs.join(" ")
    ))
}

const BAR: &str = "0x00000000febf8000 0x00000000febfbfff 0x0000000000140204\n";

#[test]
fn whatever_would_have_xl_restart_a_domain_is_taken_from_it() -> Result<()> {
    const KEYS: [&str; 5] = [
        "on_poweroff",
        "on_reboot",
        "on_crash",
        "on_watchdog",
        "on_soft_reset",
    ];
    // What xl does if nothing is said, by xl.cfg(5): on_reboot restarts, on_soft_reset resets.
    let mut config = XlConfig::parse("name='x'\n")?;
    never_restart(&mut config)?;
    let said = KEYS.map(|key| config.text(key).ok().flatten());
    assert_eq!(said, [None, Some("destroy"), None, None, Some("destroy")]);
    for key in KEYS {
        for (action, expected) in [
            ("restart", "destroy"),
            ("rename-restart", "destroy"),
            ("coredump-restart", "destroy"),
            ("soft-reset", "destroy"),
            ("destroy", "destroy"),
            ("preserve", "preserve"),
            ("coredump-destroy", "coredump-destroy"),
        ] {
            let mut config = XlConfig::parse(&format!("name='x'\n{key}='{action}'\n"))?;
            never_restart(&mut config)?;
            assert_eq!(config.text(key)?, Some(expected), "{key}={action}");
        }
    }
    Ok(())
}

#[test]
fn memory_ends_below_the_registers() -> Result<()> {
    let expected = "febf8,4@e0000 nvme0=e0000,4";
    for (key, mib, fits) in [
        ("memory", 64, true),
        ("memory", 3072, true),
        ("memory", 3073, false),
        ("maxmem", 3072, true),
        ("maxmem", 3073, false),
        ("maxmem", 4096, false),
    ] {
        let result = placed(&format!("name='x'\n{key}={mib}\n"), BAR);
        match result {
            Ok(text) => assert!(fits && text == expected, "{key}={mib}: {text}"),
            Err(error) => {
                let text = error.to_string();
                assert!(!fits && text.contains(&format!("{key}={mib}")), "{text}");
            }
        }
    }
    // One that grows beyond it is no better than one that begins there.
    assert!(placed("name='x'\nmemory=64\nmaxmem=8192\n", BAR).is_err());
    Ok(())
}

/// Whole pages are mapped: what shares a page with the registers would be the domain's as well.
#[test]
fn registers_that_share_a_page_with_others_are_refused() {
    for (start, end, fits) in [
        (0xfebf_8000_u64, 0xfebf_bfff_u64, true),
        (0xfebf_8000, 0xfebf_8fff, true),
        // Half a page, at its beginning and at its end.
        (0xfebf_8000, 0xfebf_87ff, false),
        (0xfebf_8800, 0xfebf_8fff, false),
        // A page and a half, with either half.
        (0xfebf_8000, 0xfebf_97ff, false),
        (0xfebf_8800, 0xfebf_9fff, false),
        // As much as a page, across two.
        (0xfebf_8800, 0xfebf_97ff, false),
    ] {
        let bar = format!("{start:#018x} {end:#018x} 0x0000000000140204\n");
        let result = placed("name='x'\n", &bar);
        match result {
            Ok(text) => {
                let pages = (end - start + 1) / 4096;
                assert!(
                    fits && text.starts_with(&format!("febf8,{pages:x}@")),
                    "{text}"
                );
            }
            Err(error) => {
                assert!(
                    !fits && error.to_string().contains("shares a page"),
                    "{error}"
                );
            }
        }
    }
}
