//! `attach` and `detach`: xl's, after a look whether Spindle has the disk and can give it, and with the
//! outcome, which xl does not wait for.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use spindle_limits::IoLimits;

use crate::fault::FaultKind;
use crate::host::{Call, Host, noted};
use crate::spindle::{PublishedDisk, Spindle, Target};
use crate::store;
use crate::tables::{guest, text, user};
use crate::why::find;

/// How often to look what has become of it.
const LOOK: Duration = Duration::from_millis(250);
/// The number of xvda among a guest's disks, and how far numbers are apart (`xen-vbd-interface`).
const XVDA: u32 = 202 << 8;
const APART: u32 = 16;

/// A disk that a guest is to be given.
#[derive(Clone, Debug)]
pub(crate) struct Attach<'a> {
    /// The guest, by name or number.
    pub(crate) guest: &'a str,
    /// What is to be behind it, perhaps with limits or other words before, or the beginning of a name.
    pub(crate) target: &'a str,
    /// What the guest is to call it; the first name that is free without.
    pub(crate) vdev: Option<&'a str>,
    /// Whether the guest may only read it.
    pub(crate) read_only: bool,
    /// The domain that has it, if several do.
    pub(crate) from: Option<&'a str>,
    /// How long to wait until it is connected.
    pub(crate) patience: Duration,
}

/// Gives a guest a disk, and says what it is called there.
///
/// # Errors
/// If there is no such guest or target, or more than one; if it cannot be had now; if xl fails; or if it is
/// refused or not connected in time, with what stays behind.
pub(crate) fn attach(host: &mut impl Host, wanted: &Attach<'_>) -> Result<String> {
    let all = Spindle::all(host)?;
    let (id, name) = guest_of(host, wanted.guest)?;
    let (words, target) = split(wanted.target);
    let (spindle, target) = target_of(&all, target, wanted.from)?;
    check(spindle, target, words, wanted.read_only)?;
    let (vdev, device) = match wanted.vdev {
        Some(vdev) => (vdev.to_string(), None),
        None => free(host, id)?,
    };
    let access = if wanted.read_only { "ro" } else { "rw" };
    let (domain, served) = (&spindle.name, &target.name);
    let line =
        format!("format=raw,vdev={vdev},access={access},backend={domain},target={words}{served}");
    let call = Call::xl(["block-attach", &id.to_string(), &line]);
    host.run(&call)?;
    let deadline = host.now().saturating_add(wanted.patience);
    loop {
        let now = Spindle::read(host, spindle.id)?;
        let now = now.with_context(|| format!("{domain} has ended"))?;
        let is_it = |disk: &&PublishedDisk| {
            let named = disk.vdev == vdev || Some(disk.device) == device;
            disk.guest == id && named
        };
        let disk = now.disks.iter().find(is_it);
        let cleanup = format!("`xl block-detach {id} {vdev}` removes what is left of it");
        if let Some(error) = disk.and_then(|disk| disk.error.as_ref()) {
            let error = format!("{domain} refuses it: {}\n{cleanup}", text(error));
            return Err(FaultKind::Refused.error(error));
        }
        if disk.is_some_and(|disk| disk.state == 4) {
            return Ok(format!(
                "{} of {domain} is {vdev} of {}",
                served,
                text(&name)
            ));
        }
        ensure!(
            !host.interrupted(),
            "interrupted before it was connected\n{cleanup}"
        );
        if host.now() >= deadline {
            let seconds = wanted.patience.as_secs();
            return Err(FaultKind::Late.error(format!(
                "{} has not connected {vdev} within {seconds} s; it may yet do so\n`spindlectl why {}/{vdev}` \
                 says what it waits for; {cleanup}",
                text(&name),
                text(&name)
            )));
        }
        host.sleep(LOOK);
    }
}

/// Takes a disk from its guest; says so.
///
/// # Errors
/// If there is no such disk, or if several could be meant; if xl fails, as where the guest still uses it; or
/// if it is not gone in time.
pub(crate) fn detach(
    host: &mut impl Host,
    device: &str,
    force: bool,
    patience: Duration,
) -> Result<String> {
    let all = Spindle::all(host)?;
    let (spindle, disk) = find(&all, device)?;
    let (who, vdev) = (disk.guest.to_string(), disk.device.to_string());
    let force: &[&str] = if force { &["--force"] } else { &[] };
    let words = ["block-detach"].into_iter().chain(force.iter().copied());
    let call = Call::xl(words.chain([who.as_str(), vdev.as_str()]));
    if let Err(error) = host.run(&call) {
        let note =
            "a guest that uses it does not let it go; --force cuts it off, with I/O errors there";
        return Err(noted(&error.into(), note));
    }
    let deadline = host.now().saturating_add(patience);
    loop {
        let now = Spindle::read(host, spindle.id)?;
        let is_it = |other: &PublishedDisk| {
            (other.guest, other.device) == (disk.guest, disk.device) && other.state < 6
        };
        if !now.is_some_and(|now| now.disks.iter().any(is_it)) {
            let (guest, vdev) = (guest(disk), text(&disk.vdev));
            return Ok(format!("{guest} has no {vdev} any longer"));
        }
        ensure!(!host.interrupted(), "interrupted before it was gone");
        if host.now() >= deadline {
            let seconds = patience.as_secs();
            return Err(FaultKind::Late.error(format!(
                "it is not gone after {seconds} s\n`spindlectl why {}` says what it waits for",
                text(device)
            )));
        }
        host.sleep(LOOK);
    }
}

/// The number and name of a guest.
fn guest_of(host: &mut impl Host, wanted: &str) -> Result<(u32, String)> {
    for id in store::domain_ids(host)? {
        let name = store::read(host, &format!("{}/name", store::home(id)))?.unwrap_or_default();
        if id > 0 && (name == wanted || id.to_string() == wanted) {
            return Ok((id, name));
        }
    }
    let text = text(wanted);
    Err(FaultKind::Absent.error(format!(
        "no guest {text} runs\n`xl list` shows those that do"
    )))
}

/// The words before a target's name, and that name.
fn split(target: &str) -> (&str, &str) {
    let mut rest = target;
    loop {
        rest = match (IoLimits::prefix(rest), rest.split_once(':')) {
            (Some((_, after)), _) | (None, Some(("shared" | "512e", after))) => after,
            _ => return target.split_at(target.len() - rest.len()),
        };
    }
}

/// The target that is meant: by one of its names, or by how the only one begins that could be.
fn target_of<'a>(
    all: &'a [Spindle],
    wanted: &str,
    from: Option<&str>,
) -> Result<(&'a Spindle, &'a Target)> {
    let short = wanted.strip_prefix("/dev/").unwrap_or(wanted);
    let of = |spindle: &Spindle| from.is_none_or(|from| spindle.name == from);
    let targets = all.iter().filter(|spindle| of(spindle));
    let targets = targets.flat_map(|spindle| spindle.targets.iter().map(move |it| (spindle, it)));
    let targets: Vec<_> = targets.collect();
    let with = |fits: &dyn Fn(&str) -> bool| {
        let names = |target: &Target| {
            // Of a disk this is no name, but its model.
            let more = target.about.split(' ').filter(|word| !word.is_empty());
            std::iter::once(target.name.as_str()).chain(more).any(fits)
        };
        let found = targets.iter().filter(|(_, target)| names(target));
        found.copied().collect::<Vec<_>>()
    };
    let mut found = with(&|name| name == short);
    if found.is_empty() {
        found = with(&|name| name.starts_with(short));
    }
    match found[..] {
        [one] => Ok(one),
        [] => Err(FaultKind::Absent.error(format!(
            "no Spindle has a disk {}\n`spindlectl list` shows what there is",
            text(wanted)
        ))),
        _ => {
            let names = found.iter().map(|(spindle, target)| {
                format!("{} of {}", text(&target.name), text(&spindle.name))
            });
            let names = names.collect::<Vec<_>>().join(", ");
            Err(FaultKind::Absent.error(format!(
                "{} could be each of {names}\nsay more of its name, or --from which domain",
                text(wanted)
            )))
        }
    }
}

/// Makes sure that a target can be had.
fn check(spindle: &Spindle, target: &Target, words: &str, read_only: bool) -> Result<()> {
    let (name, domain) = (text(&target.name), text(&spindle.name));
    let refuse = |what: String| Err(FaultKind::Refused.error(what));
    if !spindle.ready {
        return refuse(format!("{domain} does not serve yet"));
    }
    if target.lost {
        return refuse(format!(
            "{name} is lost\n`spindlectl rescan {domain}` has it looked for at once, and says why"
        ));
    }
    if !target.writable && !read_only {
        return refuse(format!(
            "{name} can only be read\nask for that by --read-only"
        ));
    }
    let shared = words.split(':').any(|word| word == "shared");
    let in_way = target.holders.iter().find(|holder| {
        let reads = holder.how == "r";
        !(reads && read_only || shared && (reads || holder.how == "w!"))
    });
    if let Some(holder) = in_way {
        let who = user(spindle, holder);
        return refuse(format!(
            "{name} is in use: {who}\nseveral may have it if all only read it, or if all that write it ask \
             for shared:{name}"
        ));
    }
    Ok(())
}

/// The first name that a guest has no disk of, and its number.
fn free(host: &mut impl Host, guest: u32) -> Result<(String, Option<u32>)> {
    let folder = format!("{}/device/vbd", store::home(guest));
    let nodes = store::tree(host, &folder)?;
    let taken = |device: u32| {
        let place = format!("{folder}/{device}");
        nodes.keys().any(|path| {
            path.strip_prefix(&place)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    let found = ('a'..='p').zip((XVDA..).step_by(APART as usize));
    let mut found = found.filter(|(_, device)| !taken(*device));
    let (letter, device) = found.next().with_context(|| {
        format!("guest {guest} has disks under all names from xvda to xvdp\nsay one by --vdev")
    })?;
    Ok((format!("xvd{letter}"), Some(device)))
}

#[cfg(test)]
mod tests;
