//! The guests that use disks of a Spindle: by what libxl has noted in dom0, which no domain can
//! change, and by what the Spindle itself shows.

use anyhow::Result;

use crate::domains::Domains;
use crate::host::Host;
use crate::spindle::Spindle;
use crate::{store, tables};

/// A guest's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    /// The guest's number.
    pub(crate) guest: u32,
    /// Its name, as a terminal may see it.
    pub(crate) name: String,
    /// The domain that the disk comes from.
    pub(crate) from: u32,
    /// The number of the disk among its devices.
    device: u32,
    /// What the guest calls the disk.
    vdev: String,
}

/// The disks that living guests have from one of these domains, which may be gone; from any that is
/// gone if it is not known which.
///
/// # Errors
/// If xenstore does not answer.
pub(crate) fn of(
    host: &mut impl Host,
    domains: &Domains,
    ids: Option<&[u32]>,
) -> Result<Vec<User>> {
    let counts = |from: &u32| match ids {
        Some(ids) => ids.contains(from),
        None => domains.by_id(*from).is_none(),
    };
    let nodes = store::tree(host, "/libxl")?;
    let mut users = Vec::new();
    for (path, backend) in &nodes {
        let parts: Vec<&str> = path.split('/').collect();
        let ["", "libxl", guest, "device", _, device, "backend"] = parts[..] else {
            continue;
        };
        let (Ok(guest), Ok(device)) = (guest.parse(), device.parse()) else {
            continue;
        };
        let Some(guest) = domains.by_id(guest) else {
            continue;
        };
        let from = backend.strip_prefix(store::DOMAINS).and_then(|rest| {
            let id = rest.strip_prefix('/')?.split('/').next()?;
            id.parse().ok()
        });
        let Some(from) = from.filter(counts) else {
            continue;
        };
        let folder = path.trim_end_matches("/backend");
        let vdev = nodes.get(&format!("{folder}/dev")).cloned();
        users.push(User {
            guest: guest.id,
            name: tables::text(&guest.name),
            from,
            device,
            vdev: tables::text(&vdev.unwrap_or_else(|| device.to_string())),
        });
    }
    Ok(users)
}

/// Adds the disks that a Spindle shows as open and dom0 does not know of.
pub(crate) fn shown(users: &mut Vec<User>, spindle: &Spindle) {
    // XenbusState: 6 is closed.
    for disk in spindle.disks.iter().filter(|disk| disk.state < 6) {
        if users
            .iter()
            .any(|user| (user.guest, user.device) == (disk.guest, disk.device))
        {
            continue;
        }
        users.push(User {
            guest: disk.guest,
            name: match disk.guest_name.as_str() {
                "" => disk.guest.to_string(),
                name => tables::text(name),
            },
            from: spindle.id,
            device: disk.device,
            vdev: tables::text(&disk.vdev),
        });
    }
}

/// As messages list them: `web (xvda), db (xvdb)`.
pub(crate) fn list(users: &[User]) -> String {
    let users = users
        .iter()
        .map(|user| format!("{} ({})", user.name, user.vdev));
    users.collect::<Vec<_>>().join(", ")
}
