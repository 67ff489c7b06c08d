//! LVM's tools on loop devices, kept from the device mapper and from every other disk of the machine.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use spindle_lvm::{SectorSource, Unread};
use xshell::{Shell, cmd};

/// Physical volumes of a machine.
pub(super) const DISKS: usize = 4;

/// The loop devices, and how LVM is called. They are given back in the end.
pub(super) struct LvmTools<'a> {
    sh: &'a Shell,
    folder: PathBuf,
    /// Files and their devices.
    pub(super) disks: Vec<(PathBuf, String)>,
    config: String,
}

impl<'a> LvmTools<'a> {
    pub(super) fn new(sh: &'a Shell, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let mut tools = Self {
            sh,
            folder: folder.to_path_buf(),
            disks: Vec::new(),
            config: String::new(),
        };
        for number in 0..DISKS {
            let file = folder.join(format!("pv{number}.img"));
            File::create(&file)?.set_len(1 << 20)?;
            let device = cmd!(sh, "losetup --find --show {file}")
                .quiet()
                .read()
                .context("cannot make a loop device; this takes root")?;
            tools.disks.push((file, device));
        }
        let mut filter = String::new();
        for (_, device) in &tools.disks {
            filter += &format!("\"a|^{device}$|\",");
        }
        let system = folder.display();
        tools.config = format!(
            "devices{{use_devicesfile=0 filter=[{filter}\"r|.*|\"]}} \
             backup{{backup=0 archive=0}} global{{use_lvmpolld=0 \
             locking_dir=\"{system}/lock\"}} activation{{monitoring=0}}"
        );
        Ok(tools)
    }

    /// Empties all disks, and makes them so many bytes.
    pub(super) fn reset(&self, bytes: u64) -> Result<()> {
        for (file, device) in &self.disks {
            let file = File::options().write(true).open(file)?;
            file.set_len(0)?;
            file.set_len(bytes)?;
            cmd!(self.sh, "losetup --set-capacity {device}")
                .quiet()
                .run()?;
        }
        Ok(())
    }

    /// Runs a command of LVM; false if LVM refuses it.
    pub(super) fn run(&self, command: &str, args: &[String]) -> Result<bool> {
        let config = &self.config;
        let output = cmd!(
            self.sh,
            "lvm {command} --driverloaded n --yes --config {config} {args...}"
        )
        .env("LVM_SUPPRESS_FD_WARNINGS", "1")
        .quiet()
        .ignore_status()
        .output()?;
        Ok(output.status.success())
    }

    /// What a reporting command prints, one line of fields for each row.
    pub(super) fn report(&self, command: &str, fields: &str) -> Result<Vec<Vec<String>>> {
        let config = &self.config;
        let segments = (command == "lvs").then_some("--segments");
        let text = cmd!(
            self.sh,
            "lvm {command} --driverloaded n --config {config} --noheadings --separator ; --all
             --options {fields} {segments...}"
        )
        .env("LVM_SUPPRESS_FD_WARNINGS", "1")
        .quiet()
        .ignore_stderr()
        .read()?;
        let row = |line: &str| line.trim().split(';').map(str::to_string).collect();
        Ok(text.lines().map(row).collect())
    }

    /// The devices, to be written.
    pub(super) fn devices(&self) -> Result<Vec<File>> {
        let open = |(_, device): &(PathBuf, String)| {
            let file = File::options().read(true).write(true).open(device);
            file.with_context(|| device.clone())
        };
        self.disks.iter().map(open).collect()
    }

    /// Writes what is in the devices' caches, and opens the files.
    pub(super) fn open(&self) -> Result<Vec<ImageFile>> {
        let open = |(path, device): &(PathBuf, String)| {
            File::open(device)?.sync_all()?;
            let file = File::open(path)?;
            let sectors = file.metadata()?.len() / spindle_lvm::SECTOR;
            ensure!(sectors > 0, "{} is empty", path.display());
            Ok(ImageFile { file, sectors })
        };
        self.disks.iter().map(open).collect()
    }
}

impl Drop for LvmTools<'_> {
    fn drop(&mut self) {
        for (_, device) in &self.disks {
            // A device that stays is only noticed by whoever looks.
            let _ = cmd!(self.sh, "losetup --detach {device}").quiet().run();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A disk in a file.
pub(super) struct ImageFile {
    file: File,
    sectors: u64,
}

impl SectorSource for ImageFile {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read(&mut self, first: u64, out: &mut [u8]) -> Result<(), Unread> {
        let at = first * spindle_lvm::SECTOR;
        self.file.read_exact_at(out, at).map_err(|_| Unread::Bad)
    }
}
