//! How one endpoint is chosen among many: pure functions over a [`Pool`].
//!
//! This module owns no state that changes, reads no clock and does no I/O: positions, random numbers and
//! hashes are arguments. Whether an endpoint may be chosen at all (health, exclusion, cap) is the pool's word.

pub mod consistent_hash;
pub mod least_conn;
pub mod round_robin;

/// The ramp of an endpoint that takes its full share. Slow start counts from 0 up to this.
pub const FULL: u16 = 1_024;

/// What a policy may ask about the endpoints of one Backend at the moment of a pick. Indexes are `0..len()`.
pub trait Pool {
    /// Number of endpoints, usable or not.
    fn len(&self) -> usize;

    /// How much of its share the endpoint takes now, `0..=`[`FULL`]; `None` if it must not be chosen.
    fn ramp(&self, index: usize) -> Option<u16>;

    /// Requests in flight to the endpoint.
    fn in_flight(&self, index: usize) -> u32;

    /// Configured weight, at least 1.
    fn weight(&self, index: usize) -> u16;

    /// True if there is no endpoint at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The first usable endpoint at or after `start`, slow start ignored: the last resort of every policy.
pub(crate) fn first_usable(pool: &impl Pool, start: u64) -> Option<usize> {
    let len = pool.len() as u64;
    let start = start.checked_rem(len)?;
    (0..len).map(|step| ((start + step) % len) as usize).find(|index| pool.ramp(*index).is_some())
}

/// A bijective scrambler (the finaliser of SplitMix64): turns a counter into well spread bits.
pub(crate) const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
pub(crate) mod fixture {
    //! A pool of plain values.

    use super::{FULL, Pool};

    /// One endpoint of a [`Plain`] pool.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct One {
        /// See [`Pool::ramp`].
        pub(crate) ramp: Option<u16>,
        /// See [`Pool::in_flight`].
        pub(crate) in_flight: u32,
        /// See [`Pool::weight`].
        pub(crate) weight: u16,
    }

    /// A pool that is what the test says.
    #[derive(Clone, Debug)]
    pub(crate) struct Plain(pub(crate) Vec<One>);

    impl Plain {
        /// Idle and usable endpoints with these weights.
        pub(crate) fn weighted(weights: &[u16]) -> Self {
            Self(
                weights
                    .iter()
                    .map(|weight| One { ramp: Some(FULL), in_flight: 0, weight: *weight })
                    .collect(),
            )
        }

        /// `count` idle and usable endpoints of weight 1.
        pub(crate) fn equal(count: usize) -> Self {
            Self::weighted(&vec![1; count])
        }
    }

    impl Pool for Plain {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn ramp(&self, index: usize) -> Option<u16> {
            self.0[index].ramp
        }

        fn in_flight(&self, index: usize) -> u32 {
            self.0[index].in_flight
        }

        fn weight(&self, index: usize) -> u16 {
            self.0[index].weight
        }
    }
}
