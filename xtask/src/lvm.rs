//! `lvm`: compares the reader and the writer of LVM2 metadata with LVM itself.
//!
//! Each group is made on sparse files behind loop devices by LVM's own tools, which change it at random,
//! without the device mapper. After some of the changes the files are read by `spindle-lvm`, and every
//! logical volume must have the identifier and the extents that `lvs` reports, or be refused for a
//! reason that its kind or its state explains. About half of the changes are made by `spindle-lvm`; after
//! each of these `vgck` and `pvck` must find nothing.

mod group;
mod machine;
mod written;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use self::group::RandomGroup;
use self::machine::LvmTools;
use crate::{fuzz, root, tools, ui};

/// Groups that CI makes.
const CI_GROUPS: u64 = 20;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many volume groups to make.
    #[arg(long, default_value_t = 500)]
    groups: u64,
    /// What they depend on: with N groups, those of seeds S to S + N - 1.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What was compared.
#[derive(Default)]
struct Compared {
    /// Times that disks were read.
    generations: u64,
    /// Volumes whose maps were equal.
    maps: u64,
    /// Segments of these, and how many of them were striped.
    segments: u64,
    striped: u64,
    /// Volumes that were refused, by reason.
    refused: BTreeMap<&'static str, u64>,
    /// Why Spindle did not change something.
    unwritten: BTreeMap<String, u64>,
    /// Commands of LVM and of Spindle that did something, by name, and those that were refused.
    commands: BTreeMap<&'static str, (u64, u64)>,
}

/// What CI does: groups that the commit chooses, where there is what it takes; else gives what could not
/// be checked.
pub(crate) fn in_ci() -> Result<Option<String>> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    let loops = Path::new("/dev/loop-control").exists();
    if !loops || cmd!(sh, "id -u").quiet().read()? != "0" {
        let why =
            "the reader and writer of LVM's metadata beside LVM: that takes root and loop devices";
        return Ok(Some(why.into()));
    }
    let seed = fuzz::commit(&sh)?;
    let groups = CI_GROUPS;
    run(&Args { groups, seed }).map(|()| None)
}

/// Runs the task.
pub(crate) fn run(args: &Args) -> Result<()> {
    let sh = Shell::new()?;
    tools::lvm(&sh)?;
    let folder = root().join(format!("target/lvm/{}", std::process::id()));
    let tools = LvmTools::new(&sh, &folder)?;
    let mut compared = Compared::default();
    for number in 0..args.groups {
        let seed = args.seed.wrapping_add(number);
        if number.is_multiple_of(25) {
            let text = format!("group {} of {}, seed {seed}", number + 1, args.groups);
            ui::step("lvm", &text);
        }
        RandomGroup::new(&tools, seed)
            .and_then(|mut group| group.live(&mut compared))
            .with_context(|| format!("repeat with: cargo xtask lvm --groups 1 --seed {seed}"))?;
    }
    print(args.groups, &compared);
    ensure!(compared.maps > 0, "no map was compared");
    Ok(())
}

fn print(groups: u64, compared: &Compared) {
    let mut table = ui::table(["what", "number"]);
    for (what, number) in [
        ("groups", groups),
        ("generations compared", compared.generations),
        ("maps equal", compared.maps),
        ("their segments", compared.segments),
        ("of these striped", compared.striped),
    ] {
        table.add_row([what.to_string(), number.to_string()]);
    }
    for (reason, number) in &compared.refused {
        table.add_row([format!("refused: {reason}"), number.to_string()]);
    }
    for (reason, number) in &compared.unwritten {
        table.add_row([format!("not changed: {reason}"), number.to_string()]);
    }
    for (name, (done, refused)) in &compared.commands {
        table.add_row([format!("{name} (refused)"), format!("{done} ({refused})")]);
    }
    println!("{table}");
}
