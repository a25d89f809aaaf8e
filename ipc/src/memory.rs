//! Mappings of the route table and of edge pages.
//!
//! Both are checked before they are mapped: long enough, sealed against shrinking (a mapping of a
//! file that shrinks kills its reader), and of a layout that this version knows.

#![expect(unsafe_code, reason = "shared layouts are read through mapped memory")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering;

use insula_contract::edge::{self, EdgePage, PAGE_SIZE};
use insula_contract::route::{self, RouteEntry, RouteTable, TABLE_SIZE};
use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};

/// Why a descriptor cannot be used as a route table or an edge page.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// Its size or its seals cannot be read.
    #[error("cannot inspect the descriptor")]
    Inspect(#[source] std::io::Error),
    /// It is too short.
    #[error("{bytes} bytes long, {needed} needed")]
    Short {
        /// Its length.
        bytes: u64,
        /// What the layout needs.
        needed: usize,
    },
    /// It can shrink under its reader.
    #[error("not sealed against shrinking")]
    NotSealed,
    /// It cannot be mapped.
    #[error("cannot map it")]
    Map(#[source] std::io::Error),
    /// Its first words are not those of this layout.
    #[error("not of the known layout")]
    Layout,
    /// The table has no entry of this index.
    #[error("no route entry {0}")]
    NoEntry(u32),
}

pub(crate) fn check(fd: BorrowedFd<'_>, needed: usize) -> Result<(), MapError> {
    let status = nix::sys::stat::fstat(fd).map_err(|e| MapError::Inspect(e.into()))?;
    let bytes = status.st_size.max(0) as u64;
    if bytes < needed as u64 {
        return Err(MapError::Short { bytes, needed });
    }
    let seals = fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|e| MapError::Inspect(e.into()))?;
    if SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK) {
        Ok(())
    } else {
        Err(MapError::NotSealed)
    }
}

/// One entry of the host's route table, mapped read-only.
#[derive(Debug)]
pub(crate) struct RouteMap {
    map: MmapRaw,
    index: usize,
}

impl RouteMap {
    /// Maps the table and picks the entry `index`.
    pub(crate) fn new(fd: BorrowedFd<'_>, index: u32) -> Result<Self, MapError> {
        check(fd, TABLE_SIZE)?;
        let index = usize::try_from(index)
            .ok()
            .filter(|index| *index < route::CAPACITY)
            .ok_or(MapError::NoEntry(index))?;
        let map = MmapOptions::new()
            .len(TABLE_SIZE)
            .map_raw_read_only(fd.as_raw_fd())
            .map_err(MapError::Map)?;
        let this = Self { map, index };
        let header = &this.table().header;
        if header.magic.load(Ordering::Relaxed) != route::MAGIC
            || header.layout.load(Ordering::Relaxed) != route::LAYOUT
        {
            return Err(MapError::Layout);
        }
        Ok(this)
    }

    fn table(&self) -> &RouteTable {
        // SAFETY: the mapping is page-aligned (the table needs 256), at least TABLE_SIZE long,
        // cannot shrink, and lives as long as `self`. The table consists of atomics, for which any
        // bytes are valid, and is only loaded from, which a read-only mapping allows.
        unsafe { &*self.map.as_ptr().cast::<RouteTable>() }
    }

    /// The entry.
    pub(crate) fn entry(&self) -> &RouteEntry {
        &self.table().entries[self.index]
    }
}

/// The page of an edge, mapped writable.
#[derive(Debug)]
pub(crate) struct PageMap {
    map: MmapRaw,
}

impl PageMap {
    /// Maps the page.
    pub(crate) fn new(fd: impl AsFd) -> Result<Self, MapError> {
        let fd = fd.as_fd();
        check(fd, PAGE_SIZE)?;
        let map = MmapOptions::new()
            .len(PAGE_SIZE)
            .map_raw(fd.as_raw_fd())
            .map_err(MapError::Map)?;
        let this = Self { map };
        if this.page().magic.load(Ordering::Relaxed) != edge::MAGIC
            || this.page().layout.load(Ordering::Relaxed) != edge::LAYOUT
        {
            return Err(MapError::Layout);
        }
        Ok(this)
    }

    /// The page's content.
    pub(crate) fn page(&self) -> &EdgePage {
        // SAFETY: the mapping is page-aligned (the page needs 64), PAGE_SIZE long (which holds an
        // EdgePage), cannot shrink, is writable, and lives as long as `self`. The page consists of
        // atomics, for which any bytes are valid.
        unsafe { &*self.map.as_ptr().cast::<EdgePage>() }
    }
}
