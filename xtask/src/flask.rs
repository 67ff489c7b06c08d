//! `flask`: builds Xen's example policy with the module in `ctl/flask`, as Xen's own makefile does, and sees
//! that a policy that allows the driver domain more does not build.
//!
//! The sources of the policy are Xen's. No FLASK-enabled Xen is run: Debian's has none.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use crate::rig::packages;
use crate::{root, ui};

/// The module's files, in `ctl/flask`.
const FILES: [&str; 2] = ["spindle.if", "spindle.te"];

/// Rules that would give the driver domain, or others of what is its own, more than it needs.
const TOO_MUCH: [&str; 9] = [
    "allow spindle_t domU_t:mmu map_read;",
    "allow spindle_t spindle_t_self:domain destroy;",
    "allow spindle_t domU_t:grant transfer;",
    "allow spindle_t xen_t:xen readconsole;",
    "allow spindle_t security_t:security load_policy;",
    "allow spindle_t spindle_disk_t:resource use_noiommu;",
    "allow spindle_t nic_dev_t:resource use_iommu;",
    "allow domU_t spindle_t:grant map_read;",
    "allow domU_t spindle_disk_t:resource use_iommu;",
];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A checkout of Xen's sources.
    #[arg(long)]
    xen: PathBuf,
}

/// Runs the task.
pub(crate) fn run(args: &Args) -> Result<()> {
    let sh = Shell::new()?;
    packages::install(&sh, &[("checkpolicy", "checkpolicy"), ("m4", "m4")])?;
    let policy = Policy::copy(&sh, &args.xen)?;
    policy.build(&sh, "").context(
        "Xen's policy does not build with ctl/flask/spindle.te; what checkpolicy says stands above",
    )?;
    ui::step("flask", "Xen's policy builds with ctl/flask/spindle.te");
    for rule in TOO_MUCH {
        let refused = policy.build(&sh, rule).is_err();
        ensure!(refused, "a policy that has \"{rule}\" builds");
    }
    let count = TOO_MUCH.len();
    ui::step(
        "flask",
        &format!("with each of {count} rules that allow more it does not"),
    );
    Ok(())
}

/// A copy of Xen's policy with the module in it.
struct Policy {
    /// Its `tools/flask/policy`.
    folder: PathBuf,
    /// The modules that are on, in their order.
    modules: Vec<String>,
}

impl Policy {
    fn copy(sh: &Shell, xen: &Path) -> Result<Self> {
        let target = root().join("target/flask");
        if target.exists() {
            fs::remove_dir_all(&target).with_context(|| format!("clear {}", target.display()))?;
        }
        for part in ["tools/flask/policy", "xen/xsm/flask/policy"] {
            let (from, to) = (xen.join(part), target.join(part));
            ensure!(
                from.is_dir(),
                "{} is not there: --xen is to be a checkout of Xen's sources",
                from.display()
            );
            fs::create_dir_all(&to)?;
            cmd!(sh, "cp -r {from}/. {to}").quiet().run()?;
        }
        let folder = target.join("tools/flask/policy");
        for file in FILES {
            let from = root().join("ctl/flask").join(file);
            fs::copy(&from, folder.join("modules").join(file))?;
        }
        let list = fs::read_to_string(folder.join("modules/modules.conf"))?;
        let mut modules: Vec<_> = list.lines().filter_map(enabled).collect();
        modules.push("spindle".into());
        Ok(Self { folder, modules })
    }

    /// Builds it with one more rule.
    fn build(&self, sh: &Shell, rule: &str) -> Result<()> {
        let _folder = sh.push_dir(&self.folder);
        sh.write_file("modules/more.te", rule)?;
        let of = |ending: &str| {
            let files = self
                .modules
                .iter()
                .map(|name| format!("modules/{name}.{ending}"));
            let files = files.filter(|file| self.folder.join(file).exists());
            files.collect::<Vec<_>>()
        };
        let xen = "../../../xen/xsm/flask/policy";
        let classes = [
            format!("{xen}/security_classes"),
            "policy/security_classes".into(),
            format!("{xen}/initial_sids"),
            format!("{xen}/access_vectors"),
            "policy/access_vectors".into(),
        ];
        let support = [
            "policy/support/misc_macros.spt",
            "policy/support/mls_macros.spt",
            "policy/mls",
        ];
        let (interfaces, rules, constraints) = (of("if"), of("te"), of("cons"));
        let ends = ["policy/initial_sids", "policy/device_contexts"];
        let text = cmd!(
            sh,
            "m4 -D self_contained_policy -s -D mls_num_sens=16 -D mls_num_cats=256 {classes...} {support...} {interfaces...} policy/global_tunables {rules...} modules/more.te policy/users {constraints...} {ends...}"
        );
        let text = text.quiet().read().context("m4 failed")?;
        sh.write_file("policy.conf", text)?;
        // The newest version that Xen 4.17 reads.
        let check = cmd!(sh, "checkpolicy -t Xen -c 30 policy.conf -o xenpolicy");
        let check = check.quiet().ignore_stdout();
        match rule {
            "" => check.run()?,
            _ => check.ignore_stderr().run()?,
        }
        Ok(())
    }
}

/// The module that a line of `modules.conf` turns on.
fn enabled(line: &str) -> Option<String> {
    let (name, value) = line.split_once('=')?;
    let is_on = !name.starts_with('#') && value.trim() == "on";
    is_on.then(|| name.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_modules_that_are_on_are_built() {
        assert_eq!(enabled("domU = on").as_deref(), Some("domU"));
        for line in ["# domU = on", "domU = off", "", "# This is required."] {
            assert_eq!(enabled(line), None, "{line}");
        }
    }
}
