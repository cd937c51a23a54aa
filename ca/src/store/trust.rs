//! The published trust state: one row, replaced by compare-and-swap, so that of two writers one sees that it lost.
use super::{Store, StoreError, int, optional, touch_clock, uint};

/// What became of a compare-and-swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// The new state is published.
    Done,
    /// Another state was published in between: read it and decide again.
    Lost,
}

impl Store {
    /// Sequence and encoded content of the published trust state.
    pub fn trust(&self) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        self.read(|c| {
            let row =
                optional(c, "SELECT sequence, content FROM trust", [], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)))?;
            Ok(row.map(|(sequence, content)| (uint(sequence), content)))
        })
    }

    /// Publishes a state if the one of sequence `held` (0: none yet) is still the published one.
    pub async fn swap_trust(&self, held: u64, sequence: u64, content: Vec<u8>, now: u64) -> Result<Swap, StoreError> {
        self.write(move |c| {
            let changed = if held == 0 {
                c.execute(
                    "INSERT INTO trust (id, sequence, content) VALUES (1, ?1, ?2) ON CONFLICT (id) DO NOTHING",
                    (int(sequence), content),
                )?
            } else {
                c.execute(
                    "UPDATE trust SET sequence = ?1, content = ?2 WHERE sequence = ?3 AND sequence < ?1",
                    (int(sequence), content, int(held)),
                )?
            };
            touch_clock(c, now)?;
            Ok(if changed == 1 { Swap::Done } else { Swap::Lost })
        })
        .await
    }
}
