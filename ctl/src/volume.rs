//! `volume`: makes, extends, removes, renames and lists logical volumes of the groups that a running Spindle
//! serves. Their metadata is written by the kernel.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use spindle_status::orders::{VolumeAction, VolumeOrder};
use spindle_status::path;
use spindle_status::statistic::StatUnit;

use crate::host::Host;
use crate::order;
use crate::sheet::Sheet;
use crate::spindle::{self, Spindle, Target};
use crate::tables;

/// Has the Spindle of this name change the volume `whose`, `GROUP/VOLUME`; gives what it says besides that
/// it is done.
///
/// # Errors
/// If there is none that serves, if `whose` is no such name, if it refuses or does not answer within
/// `patience`, or if xenstore does not answer.
pub(crate) fn change(
    host: &mut impl Host,
    name: &str,
    whose: &str,
    action: VolumeAction,
    patience: Duration,
) -> Result<String> {
    let all = Spindle::all(host)?;
    let spindle = spindle::named(&all, name)?;
    ensure!(
        spindle.ready,
        "{name} does not serve yet: wait until `spindlectl list` says that it does"
    );
    let whose = whose.strip_prefix("/dev/").unwrap_or(whose);
    let is_word = |word: &str| !word.is_empty() && !word.contains(['/', ' ']);
    let parts = whose.split_once('/');
    ensure!(
        parts.is_some_and(|(group, volume)| is_word(group) && is_word(volume)),
        "\"{whose}\" is no GROUP/VOLUME, such as vg0/web"
    );
    let action = match action {
        VolumeAction::Rename { to } => {
            // As lvrename takes it.
            let group = parts.map_or("", |(group, _)| group);
            let own = to.strip_prefix(&format!("{group}/")).unwrap_or(&to);
            ensure!(is_word(own), "\"{to}\" is no name for a logical volume");
            VolumeAction::Rename { to: own.into() }
        }
        other => other,
    };
    let order = VolumeOrder {
        word: host.now().as_nanos().to_string(),
        name: whose.into(),
        action,
    };
    let nodes = (path::VOLUME, path::VOLUME_DONE);
    let what = ("changes of volumes", patience);
    order::give(host, spindle, nodes, &order.to_string(), what)
}

/// A size in sectors: a number with one of the units K, M, G and T, of 1024 each; with a plus before it, how
/// much is to be added.
///
/// # Errors
/// If it is none.
pub(crate) fn size(text: &str) -> Result<(u64, bool)> {
    let added = text.strip_prefix('+');
    let number = added.unwrap_or(text);
    let shift = match number.chars().last().map(|unit| unit.to_ascii_uppercase()) {
        Some('K') => 10,
        Some('M') => 20,
        Some('G') => 30,
        Some('T') => 40,
        _ => bail!("\"{text}\" has no unit: one of K, M, G and T, such as 10G"),
    };
    let digits = &number[..number.len() - 1];
    let bytes = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift));
    let bytes = bytes.filter(|bytes| *bytes > 0 && digits.bytes().all(|it| it.is_ascii_digit()));
    let bytes = bytes.with_context(|| format!("\"{text}\" is no size, such as 10G"))?;
    Ok((bytes / 512, added.is_some()))
}

/// The logical volumes of a Spindle, of one group if that is given.
pub(crate) fn of<'a>(spindle: &'a Spindle, group: Option<&str>) -> Vec<&'a Target> {
    let is_of = |target: &&Target| {
        let parts = target.name.split_once('/');
        parts.is_some_and(|(of, _)| group.is_none_or(|group| group == of))
    };
    spindle.targets.iter().filter(is_of).collect()
}

/// These as a table.
pub(crate) fn table(spindle: &Spindle, volumes: &[&Target]) -> Sheet {
    let mut table = Sheet::new(["volume", "size", "used by", "about"], 3);
    for volume in volumes {
        let users = volume
            .holders
            .iter()
            .map(|holder| tables::user(spindle, holder));
        table.add([
            tables::text(&volume.name),
            tables::size(volume.sectors as f64 * StatUnit::Sectors.scale()),
            users.collect::<Vec<_>>().join(", "),
            tables::text(&volume.about),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn an_order_is_given_and_its_answer_passed_on() {
        let mut host = Fake::serving();
        let create = VolumeAction::Create {
            sectors: 2048,
            time: 5,
        };
        let said = change(
            &mut host,
            "spindle",
            "/dev/vg0/web",
            create.clone(),
            PATIENCE,
        );
        assert_eq!(said.unwrap(), "");
        let to = "vg0/new".to_string();
        let rename = VolumeAction::Rename { to };
        let said = change(&mut host, "spindle", "vg0/web", rename, PATIENCE);
        assert_eq!(said.unwrap(), "");
        let orders = host.calls.iter().filter(|call| call.changes);
        let orders: Vec<_> = orders.map(|call| call.text.clone()).collect();
        let node = "xenstore-write /local/domain/3/data/spindle/volume";
        assert_eq!(orders.len(), 2);
        assert!(orders[0].starts_with(node) && orders[0].ends_with(" create vg0/web 2048 5'"));
        assert!(orders[1].ends_with(" rename vg0/web new'"), "{}", orders[1]);
        for (whose, why) in [
            ("vg1/web", "spindle: refused: there is no volume group vg1"),
            ("web", "is no GROUP/VOLUME"),
            ("vg0/", "is no GROUP/VOLUME"),
            ("vg0/a b", "is no GROUP/VOLUME"),
        ] {
            let error = change(&mut host, "spindle", whose, create.clone(), PATIENCE).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        host.deaf = true;
        let late = change(
            &mut host,
            "spindle",
            "vg0/web",
            VolumeAction::Remove,
            PATIENCE,
        );
        let late = late.unwrap_err().to_string();
        assert!(late.contains("may know no changes of volumes"), "{late}");
    }

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!(size("10G").unwrap(), (20 << 20, false));
        assert_eq!(size("+512k").unwrap(), (1024, true));
        assert_eq!(size("1T").unwrap(), (2 << 30, false));
        for wrong in [
            "10",
            "",
            "G",
            "0G",
            "-1G",
            "+",
            "1.5G",
            "++1G",
            "99999999999T",
            "1é",
        ] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
