//! A disk with an LVM2 physical volume, right or wrong at will, written apart from what reads it; and what
//! it is read by.

use spindle_lvm::{SectorSource, Unread};

/// Bytes of a sector.
const SECTOR: usize = 512;

/// A physical volume, to be changed before it is written to an image.
#[derive(Clone, Debug)]
pub struct LvmImage {
    /// Its identifier, 32 characters.
    pub uuid: [u8; 32],
    /// The sector of its label.
    pub label: u8,
    /// Sectors of the disk.
    pub sectors: usize,
    /// Its metadata areas.
    pub areas: Vec<LvmArea>,
    /// A bit to turn in the end: its byte on the disk.
    pub damage: Vec<usize>,
}

/// A metadata area.
#[derive(Clone, Debug)]
pub struct LvmArea {
    /// Its first byte.
    pub start: u64,
    /// Its bytes.
    pub size: u64,
    /// Where the text begins in it.
    pub offset: u64,
    /// What it holds; a zero is put behind it.
    pub text: String,
    /// Flags of the text: 1 is "ignored".
    pub flags: u32,
    /// Bytes that the text is said to have instead.
    pub length: Option<u64>,
}

/// The text of a group, to be put together and changed.
#[derive(Clone, Debug)]
pub struct LvmText {
    /// Its name.
    pub name: String,
    /// Its identifier, 32 characters.
    pub uuid: String,
    /// Its generation.
    pub seqno: u64,
    /// Sectors of an extent.
    pub extent: u64,
    /// Lines in its section.
    pub extra: String,
    /// The identifiers of its physical volumes, `pv0` and so on, the first sector of their extents, and how
    /// many they have.
    pub physical: Vec<([u8; 32], u64, u64)>,
    /// Its logical volumes, and the section of each behind identifier and status.
    pub logical: Vec<(String, String)>,
}

/// A segment of a logical volume: its extents, sectors of a stripe (0 without), and where it is: physical
/// volumes and first extents.
pub type LvmSegment<'a> = (u64, u64, &'a [(usize, u64)]);

impl LvmText {
    /// A group without volumes, with extents of 8 sectors.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            uuid: format!("{name:0>32}"),
            seqno: 1,
            extent: 8,
            extra: String::new(),
            physical: Vec::new(),
            logical: Vec::new(),
        }
    }

    /// With another physical volume: 100 extents from sector 256 on.
    #[must_use]
    pub fn on(mut self, uuid: &[u8; 32]) -> Self {
        self.physical.push((*uuid, 256, 100));
        self
    }

    /// With another logical volume.
    #[must_use]
    pub fn with(mut self, name: &str, segments: &[LvmSegment<'_>]) -> Self {
        let mut text = format!("segment_count = {}\n", segments.len());
        let mut start = 0;
        for (number, (extents, stripe, areas)) in (1..).zip(segments) {
            let areas: Vec<String> = areas
                .iter()
                .map(|(pv, first)| format!("\"pv{pv}\", {first}"))
                .collect();
            text += &format!(
                "segment{number} {{\nstart_extent = {start}\nextent_count = {extents}\n\
                 type = \"striped\"\nstripe_count = {}\nstripe_size = {stripe}\n\
                 stripes = [{}]\n}}\n",
                areas.len(),
                areas.join(", ")
            );
            start += extents;
        }
        self.logical.push((name.into(), text));
        self
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} {{\nid = \"{}\"\nseqno = {}\nformat = \"lvm2\"\n\
             status = [\"RESIZEABLE\", \"READ\", \"WRITE\"]\nextent_size = {}\n{}\nphysical_volumes {{\n",
            self.name, self.uuid, self.seqno, self.extent, self.extra
        );
        for (number, (uuid, start, count)) in self.physical.iter().enumerate() {
            let uuid = String::from_utf8_lossy(uuid);
            text += &format!(
                "pv{number} {{\nid = \"{uuid}\"\nstatus = [\"ALLOCATABLE\"]\nflags = []\n\
                 pe_start = {start}\npe_count = {count}\n}}\n"
            );
        }
        text += "}\nlogical_volumes {\n";
        for (name, body) in &self.logical {
            text += &format!(
                "{name} {{\nid = \"{name:0>32}\"\nstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\n{body}}}\n"
            );
        }
        text + "}\n}\ncontents = \"Text Format Volume Group\"\nversion = 1\n"
    }
}

impl LvmArea {
    /// An area of 64 KiB behind the label, with a text at its beginning.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self {
            start: 4096,
            size: 64 << 10,
            offset: 512,
            text: text.into(),
            flags: 0,
            length: None,
        }
    }
}

impl LvmImage {
    /// A physical volume with one metadata area, on a disk of so many sectors.
    #[must_use]
    pub fn new(uuid: &[u8; 32], sectors: usize, text: &str) -> Self {
        Self {
            uuid: *uuid,
            label: 1,
            sectors,
            areas: vec![LvmArea::new(text)],
            damage: Vec::new(),
        }
    }

    /// The disk: everything in its place as far as that is on the disk at all.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        let mut image = vec![0; self.sectors * SECTOR];
        put(&mut image, u64::from(self.label) * 512, &self.label());
        for area in &self.areas {
            let mut text = area.text.clone().into_bytes();
            text.push(0);
            put(&mut image, area.start, &area.header(&text));
            let room = area.size.saturating_sub(area.offset) as usize;
            let (front, wrapped) = text.split_at(text.len().min(room));
            put(&mut image, area.start.saturating_add(area.offset), front);
            put(&mut image, area.start.saturating_add(512), wrapped);
        }
        for &at in &self.damage {
            if let Some(byte) = image.get_mut(at) {
                *byte ^= 1;
            }
        }
        image
    }

    fn label(&self) -> Vec<u8> {
        let mut sector = vec![0; SECTOR];
        put(&mut sector, 0, b"LABELONE");
        put(&mut sector, 8, &u64::from(self.label).to_le_bytes());
        put(&mut sector, 20, &32_u32.to_le_bytes());
        put(&mut sector, 24, b"LVM2 001");
        put(&mut sector, 32, &self.uuid);
        put(&mut sector, 64, &(self.sectors as u64 * 512).to_le_bytes());
        // One area for data, to the end.
        put(&mut sector, 72, &(1_u64 << 20).to_le_bytes());
        let mut at = 104;
        for area in &self.areas {
            put(&mut sector, at, &area.start.to_le_bytes());
            put(&mut sector, at + 8, &area.size.to_le_bytes());
            at += 16;
        }
        let crc = checksum(&sector[20..]);
        put(&mut sector, 16, &crc.to_le_bytes());
        sector
    }
}

impl LvmArea {
    fn header(&self, text: &[u8]) -> Vec<u8> {
        let mut sector = vec![0; SECTOR];
        put(&mut sector, 4, b" LVM2 x[5A%r0N*>");
        put(&mut sector, 20, &1_u32.to_le_bytes());
        put(&mut sector, 24, &self.start.to_le_bytes());
        put(&mut sector, 32, &self.size.to_le_bytes());
        put(&mut sector, 40, &self.offset.to_le_bytes());
        let length = self.length.unwrap_or(text.len() as u64);
        put(&mut sector, 48, &length.to_le_bytes());
        put(&mut sector, 56, &checksum(text).to_le_bytes());
        put(&mut sector, 60, &self.flags.to_le_bytes());
        let crc = checksum(&sector[4..]);
        put(&mut sector, 0, &crc.to_le_bytes());
        sector
    }
}

/// A disk as whoever looks for physical volumes reads it, in whole sectors and at most 4 KiB at once.
#[derive(Clone, Debug)]
pub struct LvmDisk {
    /// What is on it.
    pub bytes: Vec<u8>,
    /// A sector that cannot be read.
    pub bad: Option<u64>,
    /// How often it was read.
    pub reads: usize,
}

impl LvmDisk {
    /// A disk with this on it, all of which can be read.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            bad: None,
            reads: 0,
        }
    }
}

impl SectorSource for LvmDisk {
    fn sectors(&self) -> u64 {
        (self.bytes.len() / SECTOR) as u64
    }

    fn read(&mut self, first: u64, out: &mut [u8]) -> Result<(), Unread> {
        assert!(!out.is_empty() && out.len() <= 4096 && out.len().is_multiple_of(SECTOR));
        self.reads += 1;
        let sectors = first..first + (out.len() / SECTOR) as u64;
        if self.bad.is_some_and(|bad| sectors.contains(&bad)) {
            return Err(Unread::Bad);
        }
        let at = first as usize * SECTOR;
        out.copy_from_slice(&self.bytes[at..at + out.len()]);
        Ok(())
    }
}

fn put(to: &mut [u8], at: u64, bytes: &[u8]) {
    let room = usize::try_from(at).ok().and_then(|at| to.get_mut(at..));
    for (to, from) in room.into_iter().flatten().zip(bytes) {
        *to = *from;
    }
}

/// LVM's checksum, bit by bit.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = 0xf597_a6cf_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
        }
    }
    crc
}
