//! Packs a matrix into tiles, in parallel over tiles.

use super::{
    extract::Block,
    layout::{GROUP, Quants, Record, Scales, record_bytes, scale_bytes, with_layout},
};
use crate::{Compute, WeightFormat};

/// The matrix being packed.
pub(super) struct Source<'a> {
    pub(super) format: WeightFormat,
    pub(super) rows: usize,
    pub(super) row_bytes: usize,
    pub(super) data: &'a [u8],
    pub(super) lanes: usize,
    pub(super) tile_bytes: usize,
}

impl Source<'_> {
    /// Writes tile `index`; `tile` is zero where nothing is written (rows past the end).
    pub(super) fn pack_tile(&self, index: usize, tile: &mut [u8]) {
        let first = index * self.lanes;
        for lane in 0..self.lanes.min(self.rows - first) {
            let start = (first + lane) * self.row_bytes;
            let row = &self.data[start..start + self.row_bytes];
            let packed = with_layout!(self.format, Q, C, RUN, PARTS => self.pack_row::<Q, C>(row, lane, tile));
            if packed.is_none() {
                self.pack_float_row(row, lane, tile);
            }
        }
    }

    fn pack_row<Q: Quants, C: Scales>(&self, row: &[u8], lane: usize, tile: &mut [u8]) {
        let lanes = self.lanes;
        let mut block = Block::new();
        let groups_per_block = self.format.block_len() / GROUP;
        let blocks_per_record = C::PERIOD / groups_per_block;
        let block_quants = Q::LANE_BYTES * lanes * groups_per_block;
        let records = tile.chunks_exact_mut(record_bytes::<Q, C>(lanes));
        for (blocks, record) in row.chunks(self.format.block_bytes() * blocks_per_record).zip(records) {
            let (scales, quants) = record.split_at_mut(scale_bytes::<C>(lanes));
            let blocks = blocks.chunks_exact(self.format.block_bytes()).zip(quants.chunks_exact_mut(block_quants));
            for (index, (bytes, quants)) in blocks.enumerate() {
                block.read(self.format, bytes);
                C::pack(&block, index, &mut Record { bytes: scales, lanes, lane });
                let groups = block.quants.as_chunks::<GROUP>().0;
                for (group, packed) in groups.iter().zip(quants.chunks_exact_mut(Q::LANE_BYTES * lanes)) {
                    let words = Q::pack(group);
                    for (word, register) in words.iter().zip(packed.chunks_exact_mut(4 * lanes)) {
                        register[4 * lane..4 * lane + 4].copy_from_slice(&word.to_le_bytes());
                    }
                }
            }
        }
    }

    fn pack_float_row(&self, row: &[u8], lane: usize, tile: &mut [u8]) {
        let width = self.format.block_bytes();
        let columns = tile.chunks_exact_mut(width * self.lanes);
        if width == 2 {
            for (value, column) in row.as_chunks::<2>().0.iter().zip(columns) {
                column[2 * lane..2 * lane + 2].copy_from_slice(value);
            }
        } else {
            for (value, column) in row.as_chunks::<4>().0.iter().zip(columns) {
                column[4 * lane..4 * lane + 4].copy_from_slice(value);
            }
        }
    }
}

/// The start of the packed tiles, shared by the tasks that fill them.
struct SharedTiles(*mut u8);

// SAFETY: each task writes tiles of its own.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Sync for SharedTiles {}

impl SharedTiles {
    /// # Safety
    /// The tile exists and no other task uses it.
    #[expect(unsafe_code, clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    unsafe fn tile(&self, index: usize, bytes: usize) -> &mut [u8] {
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(index * bytes), bytes) }
    }
}

impl Source<'_> {
    /// Fills zeroed `tiles`, in parallel.
    pub(super) fn pack(&self, cx: &Compute, tiles: &mut [u8]) {
        /// Packed bytes worth a task.
        const TASK_BYTES: usize = 256 << 10;
        let tile_bytes = self.tile_bytes;
        let num_tiles = tiles.len() / tile_bytes;
        let tiles_per_task = (TASK_BYTES / tile_bytes).max(1);
        let shared = SharedTiles(tiles.as_mut_ptr());
        cx.run(num_tiles.div_ceil(tiles_per_task), &|task| {
            let first = task * tiles_per_task;
            for index in first..(first + tiles_per_task).min(num_tiles) {
                // SAFETY: every tile belongs to one task.
                #[expect(unsafe_code, reason = "disjoint tiles")]
                let tile = unsafe { shared.tile(index, tile_bytes) };
                self.pack_tile(index, tile);
            }
        });
    }
}
