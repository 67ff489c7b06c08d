//! The package's contents as a folder: what lies where, the control files, and how it is packed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use super::NAME;
use crate::rig::packages;
use crate::root;

/// Who answers for the package.
const MAINTAINER: &str = "The Spindle authors <spindle@invalid.example>";
/// The units.
pub(super) const UNITS: [&str; 2] = ["spindle@.service", "spindle-watch@.service"];
/// What dpkg runs.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// The folder.
pub(super) struct Tree(PathBuf);

impl Tree {
    /// An empty one in place of what is there.
    pub(super) fn new(folder: PathBuf) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("clear {}", folder.display()))?;
        }
        let tree = Self(folder);
        tree.folder("DEBIAN")?;
        // For the administrator's configurations.
        tree.folder("etc/spindle")?;
        Ok(tree)
    }

    fn folder(&self, path: &str) -> Result<PathBuf> {
        let folder = self.0.join(path);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        // Whatever the umask is.
        let mut above = folder.as_path();
        while above.starts_with(&self.0) {
            fs::set_permissions(above, fs::Permissions::from_mode(0o755))?;
            let Some(next) = above.parent() else { break };
            above = next;
        }
        Ok(folder)
    }

    /// Copies a file there.
    pub(super) fn add(&self, from: &Path, to: &str, mode: u32) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.write(to, &bytes, mode)
    }

    fn write(&self, to: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let (folder, name) = to.rsplit_once('/').unwrap_or(("", to));
        let path = self.folder(folder)?.join(name);
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    /// Adds what is text: examples, the operator's pages, the unit, the licences and what was changed.
    pub(super) fn add_texts(&self, notices: &str, version: &str) -> Result<()> {
        let examples = format!("usr/share/doc/{NAME}/examples");
        for entry in fs::read_dir(root().join("xl-configs"))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.ends_with(".cfg") {
                self.add(&path, &format!("{examples}/{name}"), 0o644)?;
            }
        }
        for folder in ["docs", "flask"] {
            for entry in fs::read_dir(root().join("ctl").join(folder))? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                self.add(
                    &path,
                    &format!("usr/share/doc/{NAME}/{folder}/{name}"),
                    0o644,
                )?;
            }
        }
        let debian = root().join("ctl/debian");
        for unit in UNITS {
            let to = format!("usr/lib/systemd/system/{unit}");
            self.add(&debian.join(unit), &to, 0o644)?;
        }
        self.add(
            &debian.join("lintian-overrides"),
            &format!("usr/share/lintian/overrides/{NAME}"),
            0o644,
        )?;
        for script in SCRIPTS {
            self.add(&debian.join(script), &format!("DEBIAN/{script}"), 0o755)?;
        }
        let doc = format!("usr/share/doc/{NAME}");
        let text = |path: PathBuf| {
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let mit = text(root().join("LICENSE-MIT"))?;
        let mit: Vec<_> = mit.lines().map(indented).collect();
        let copyright = text(debian.join("copyright"))?.replace("@MIT@", &mit.join("\n"));
        self.write(&format!("{doc}/copyright"), copyright.as_bytes(), 0o644)?;
        self.gzip(&format!("{doc}/third-party.txt"), notices)?;
        let changes = text(root().join("CHANGELOG.md"))?;
        self.gzip(&format!("{doc}/NEWS.md"), &changes)?;
        let changelog = format!(
            "{NAME} ({version}) unstable; urgency=medium\n\n  * See NEWS.md.gz.\n\n \
             -- {MAINTAINER}  Thu, 01 Jan 1970 00:00:00 +0000\n"
        );
        self.gzip(&format!("{doc}/changelog"), &changelog)
    }

    /// Adds what the tool in the package generates: manual pages and completions.
    pub(super) fn add_generated(&self, sh: &Shell) -> Result<()> {
        let program = self.0.join("usr/sbin/spindlectl");
        let generate = |what: &str, to: &str| {
            let to = self.folder(to)?;
            cmd!(sh, "{program} generate {what} --into {to}")
                .quiet()
                .run()?;
            anyhow::Ok(to)
        };
        generate("bash", "usr/share/bash-completion/completions")?;
        generate("zsh", "usr/share/zsh/vendor-completions")?;
        let man = generate("man", "usr/share/man/man8")?;
        for page in fs::read_dir(&man)? {
            let page = page?.path();
            cmd!(sh, "gzip --best --no-name {page}").quiet().run()?;
        }
        Ok(())
    }

    /// Adds the list of parts.
    pub(super) fn add_bill(&self, bill: &Path) -> Result<()> {
        let text = fs::read_to_string(bill)?;
        self.gzip(&format!("usr/share/doc/{NAME}/sbom.cdx.json"), &text)
    }

    /// Writes a file that is compressed, without a time in it.
    fn gzip(&self, to: &str, text: &str) -> Result<()> {
        self.write(to, text.as_bytes(), 0o644)?;
        let sh = Shell::new()?;
        let path = self.0.join(to);
        cmd!(sh, "gzip --best --no-name --force {path}")
            .quiet()
            .run()?;
        Ok(())
    }

    /// Writes the control files, and packs all of it. Every time in it is `epoch`, in seconds.
    pub(super) fn pack(&self, sh: &Shell, to: &Path, version: &str, epoch: &str) -> Result<()> {
        packages::install(sh, &[("dpkg-shlibdeps", "dpkg-dev")])?;
        let control = fs::read_to_string(root().join("ctl/debian/control"))?;
        let (source, binary) = control.split_once("\n\n").context("two parts")?;
        let fill = |text: &str| {
            text.replace("@MAINTAINER@", MAINTAINER)
                .replace("@VERSION@", version)
        };
        // dpkg-shlibdeps reads the source's control file where it runs.
        let work = self.0.with_extension("work");
        fs::create_dir_all(work.join("debian"))?;
        fs::write(
            work.join("debian/control"),
            format!("{}\n\nPackage: {NAME}\nArchitecture: amd64\n", fill(source)),
        )?;
        let depends = {
            let _dir = sh.push_dir(&work);
            let program = self.0.join("usr/sbin/spindlectl");
            let shim = self.0.join("usr/lib/spindle/libspindle_shim.so");
            cmd!(sh, "dpkg-shlibdeps -O {program} {shim}")
                .quiet()
                .ignore_stderr()
                .read()
                .context("dpkg-shlibdeps failed; it comes with `dpkg-dev`")?
        };
        let depends = depends.trim().trim_start_matches("shlibs:Depends=");
        let size = cmd!(sh, "du --apparent-size --block-size=1024 --summarize");
        let tree = &self.0;
        let size = size.arg(tree).quiet().read()?;
        let size = size.split_whitespace().next().unwrap_or("0");
        let control = fill(binary)
            .replace("@SIZE@", size)
            .replace("@DEPENDS@", depends);
        self.write("DEBIAN/control", control.as_bytes(), 0o644)?;
        self.write("DEBIAN/md5sums", self.sums(sh)?.as_bytes(), 0o644)?;
        let _epoch = sh.push_env("SOURCE_DATE_EPOCH", epoch);
        cmd!(sh, "dpkg-deb --root-owner-group -Zxz --build {tree} {to}")
            .quiet()
            .ignore_stdout()
            .run()
            .context("dpkg-deb failed")
    }

    /// What `dpkg --verify` compares with.
    fn sums(&self, sh: &Shell) -> Result<String> {
        let _dir = sh.push_dir(&self.0);
        let find = "find . -type f -not -path './DEBIAN/*' -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 md5sum";
        let sums = cmd!(sh, "sh -c {find}").quiet().read()?;
        Ok(sums + "\n")
    }
}

/// A line of a licence in a machine-readable copyright file.
fn indented(line: &str) -> String {
    match line.trim_end() {
        "" => " .".to_string(),
        line => format!(" {line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_where_an_administrator_looks_for_them() {
        let folder = std::env::temp_dir().join(format!("spindle-tree-{}", std::process::id()));
        let tree = Tree::new(folder.clone()).expect("a folder");
        tree.add_texts("licences", "1").expect("texts");
        for file in [
            "docs/operating.md",
            "docs/alerts.yml",
            "flask/spindle.te",
            "examples/spindle-hvm.cfg",
            "NEWS.md.gz",
        ] {
            let path = folder.join("usr/share/doc/spindle").join(file);
            assert!(path.exists(), "{file}");
        }
        fs::remove_dir_all(&folder).expect("removed");
    }
}
