//! Domains that have a disk's registers in their memory by their configuration (`iomem=`), whoever
//! made them. Xen maps them when it creates the domain, and they stay there until it ends: neither
//! `xl pci-detach` nor giving the disk to another takes them away, and nothing in xenstore shows them.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::domains::{Domain, Domains};
use crate::host::{Call, Host, found};
use crate::pci::{self, Bdf, Frames};
use crate::record::Record;
use crate::store;

/// Refuses a function of which a living domain other than `own` has registers in its memory.
///
/// # Errors
/// With the domain and how that ends; or if it cannot be found out, also of one domain only.
pub(crate) fn ensure_unmapped(
    host: &mut impl Host,
    domains: &Domains,
    bdf: Bdf,
    own: Option<&Record>,
) -> Result<()> {
    let path = bdf.sysfs("resource");
    let bars = found(host.read(&path)).with_context(|| format!("cannot read {path}"))?;
    let bars = pci::memory(&bars.unwrap_or_default());
    let others = domains.others().filter(|domain| {
        let is_own = own.is_some_and(|own| own.is_of(domain));
        !is_own
    });
    let others: Vec<&Domain> = others.collect();
    if bars.is_empty() || others.is_empty() {
        return Ok(());
    }
    let text = host.run(&Call::look("xl", ["list", "-l"]))?;
    let all: Value = serde_json::from_str(&text).context("`xl list -l` gives no JSON")?;
    let all = all.as_array().context("`xl list -l` gives no list")?;
    for &Domain { id, ref name, .. } in others {
        let mut listed = all.iter();
        let Some(entry) = listed.find(|entry| entry["domid"].as_u64() == Some(id.into())) else {
            ensure!(
                has_no_configuration(host, id)?,
                "whether domain {id} ({name}) has registers of {bdf} in its memory is not known: \
                 `xl list -l {id}` does not show its configuration, as of one whose creation was cut \
                 off; `xl destroy {id}` ends it"
            );
            continue;
        };
        let ranges = match &entry["config"]["b_info"]["iomem"] {
            Value::Null => &Vec::new(),
            ranges => ranges.as_array().with_context(|| nonsense(id))?,
        };
        for range in ranges {
            let number = |key: &str| range[key].as_u64().with_context(|| nonsense(id));
            let (first, pages) = (number("start")?, number("number")?);
            let end = first.saturating_add(pages);
            let meets = |bar: &Frames| first < bar.first + bar.pages && bar.first < end;
            ensure!(
                !bars.iter().any(meets),
                "domain {id} ({name}) has registers of {bdf} in its memory (iomem= in its \
                 configuration) as long as it lives; end it first (`xl shutdown {id}`)"
            );
        }
    }
    Ok(())
}

fn nonsense(id: u32) -> String {
    format!("`xl list -l` says of domain {id} what is no iomem")
}

/// Whether a domain is one for which libxl keeps no configuration though it is complete: a device
/// model of another domain, or xenstored. Neither is given memory of devices.
fn has_no_configuration(host: &mut impl Host, id: u32) -> Result<bool> {
    let target = store::read(host, &format!("{}/target", store::home(id)))?;
    let xenstored = store::read(host, "/tool/xenstored/domid")?;
    Ok(target.is_some() || xenstored == Some(id.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{BDF, Fake};

    const UUID: &str = "0a1b2c3d-0000-4000-8000-0000000000aa";

    fn look(host: &mut Fake) -> Result<()> {
        let domains = Domains::look(host).expect("domains");
        ensure_unmapped(host, &domains, BDF.parse().expect("an address"), None)
    }

    #[test]
    fn registers_in_a_domain_made_by_hand_are_found() {
        let mut host = Fake::with_nvme("pciback");
        host.add_domain("web", "0a1b2c3d-0000-4000-8000-0000000000ab");
        assert!(look(&mut host).is_ok());
        let id = host.add_mapped("hand", UUID);
        let text = look(&mut host).expect_err("mapped").to_string();
        let words = format!("domain {id} (hand) has registers of 0000:01:00.0");
        assert!(text.contains(&words), "{text}");
        assert!(text.contains(&format!("`xl shutdown {id}`")), "{text}");
        // Some other device's, next to these.
        let bdf: Bdf = BDF.parse().expect("an address");
        host.put(&bdf.sysfs("resource"), "0xfebfc000 0xfebfffff 0x140204\n");
        host.mapped_frames = (0xfebf8, 4);
        assert!(look(&mut host).is_ok());
        host.mapped_frames = (0xfebff, 1);
        assert!(look(&mut host).is_err(), "the last page of a BAR");
        host.mapped_frames = (0xfec00, 4);
        assert!(look(&mut host).is_ok(), "the page after it");
        host.mapped_frames = (0xfebff, 1);
        // In any of the BARs.
        let bars = "0x0 0x0 0x0\n0x0 0x0 0x0\n0xfebff000 0xfebfffff 0x140204\n";
        host.put(&bdf.sysfs("resource"), bars);
        assert!(look(&mut host).is_err());
    }

    #[test]
    fn a_domain_whose_configuration_is_not_known_may_have_anything() {
        let mut host = Fake::with_nvme("pciback");
        let id = host.add_domain("half", UUID);
        host.state.domains[0].configured = false;
        let text = look(&mut host).expect_err("not known").to_string();
        assert!(text.contains(&format!("`xl destroy {id}`")), "{text}");
        let mut stub = host.clone();
        stub.store(&format!("/local/domain/{id}/target"), "7");
        assert!(look(&mut stub).is_ok());
        host.store("/tool/xenstored/domid", &id.to_string());
        assert!(look(&mut host).is_ok());
    }
}
