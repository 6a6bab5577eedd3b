//! Consistent hashing on the ketama ring with bounded load.
//!
//! The ring and the place of a key on it are those of nginx's `hash … consistent` (160 points per unit of
//! weight, CRC-32 of the key), so a fleet may mix both. A key whose endpoint is unusable, or holds more than
//! 1.25 times its fair share of the requests in flight, goes to the next point that is neither: a hot key
//! spills over its neighbours instead of killing one endpoint.

use std::net::SocketAddr;

use pingora_ketama::{Bucket, Continuum};

use super::{FULL, Pool, first_usable, mix};

/// Points of a ring before weights are scaled down: 8 B each in the ring, 4 B in the index.
const MOST_POINTS: u64 = 262_144;
/// Points per unit of weight, as in nginx.
const POINTS_PER_WEIGHT: u64 = 160;
/// The ring numbers its endpoints in 16 bits.
const MOST_ENDPOINTS: usize = 65_535;
/// Endpoints whose load is added up for the average; beyond, as many are sampled.
const SAMPLE: usize = 64;

/// Hash of a key as [`Ring`] expects it: CRC-32, as nginx has it.
#[must_use]
pub fn key_hash(key: &[u8]) -> u64 {
    u64::from(crc32fast::hash(key))
}

/// As [`key_hash`], of a key that comes in parts: nothing is joined for it.
#[must_use]
pub fn key_hash_of(parts: &[&[u8]]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    u64::from(hasher.finalize())
}

/// `point on the ring → endpoint index`. Immutable; built when a Backend's endpoints change.
pub struct Ring {
    continuum: Continuum,
    /// Endpoint index of each point, in ring order.
    owners: Box<[u32]>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("points", &self.owners.len()).finish_non_exhaustive()
    }
}

impl Ring {
    /// The ring of these endpoints, in the order that the pool numbers them. Weights are used as they are while
    /// the ring stays within 262,144 points and scaled down beyond. Endpoints after the 65,535th own no point.
    #[must_use]
    pub fn new(endpoints: &[(SocketAddr, u16)]) -> Self {
        let endpoints = endpoints.get(..endpoints.len().min(MOST_ENDPOINTS)).unwrap_or_default();
        let sum: u64 = endpoints.iter().map(|(_, weight)| u64::from((*weight).max(1))).sum();
        let most = MOST_POINTS / POINTS_PER_WEIGHT;
        let scale = |weight: u16| {
            let weight = u64::from(weight.max(1));
            let scaled = if sum <= most { weight } else { (weight * most / sum).max(1) };
            u32::try_from(scaled).unwrap_or(u32::MAX)
        };
        let buckets: Vec<Bucket> =
            endpoints.iter().map(|(address, weight)| Bucket::new(*address, scale(*weight))).collect();
        let continuum = Continuum::new(&buckets);
        let owners = owners(&continuum, endpoints);
        Self { continuum, owners }
    }

    /// The point at or after `hash`.
    fn start(&self, hash: u64) -> usize {
        // The continuum takes a key and hashes it itself; four bytes with the wanted hash exist for any hash.
        self.continuum.node_idx(&preimage(hash as u32).to_le_bytes())
    }
}

fn owners(continuum: &Continuum, endpoints: &[(SocketAddr, u16)]) -> Box<[u32]> {
    let index: std::collections::HashMap<SocketAddr, u32, foldhash::fast::FixedState> =
        endpoints.iter().zip(0..).map(|((address, _), index)| (*address, index)).collect();
    let mut owners = Vec::new();
    let mut point = 0;
    while let Some(address) = continuum.get_addr(&mut point) {
        owners.push(index.get(address).copied().unwrap_or(0));
        if point == 0 {
            break;
        }
    }
    owners.into_boxed_slice()
}

/// The endpoint of the first point from `hash` on whose owner is usable and not over its bound. If every usable
/// one is over it, the first usable one.
///
/// In slow start an endpoint takes `ramp/FULL` of its own keys, always the same ones first, so that each key
/// moves once.
pub fn choose(ring: &Ring, pool: &impl Pool, hash: u64) -> Option<usize> {
    let points = ring.owners.len();
    let start = ring.start(hash).checked_rem(points)?;
    let mut bound = None;
    let mut fallback = None;
    let mut last = usize::MAX;
    // Far enough to meet each of a few endpoints with near certainty; the last resort below is exact.
    let most = points.min(pool.len().saturating_mul(8).max(256));
    for step in 0..most {
        let point = (start + step) % points;
        let Some(index) = ring.owners.get(point).map(|owner| *owner as usize) else { break };
        if index == last {
            continue;
        }
        last = index;
        let Some(ramp) = pool.ramp(index) else { continue };
        if ramp < FULL && (mix(hash) >> 54) >= u64::from(ramp) {
            continue;
        }
        // An idle endpoint is never over its bound: most picks of a quiet Backend end here.
        if pool.in_flight(index) == 0
            || bound.get_or_insert_with(|| Bound::of(pool, hash)).allows(pool, index)
        {
            return Some(index);
        }
        fallback = fallback.or(Some(index));
    }
    fallback.or_else(|| first_usable(pool, mix(hash)))
}

/// 1.25 × the fair share of the requests in flight, this one included.
struct Bound {
    requests: u64,
    weights: u64,
}

impl Bound {
    fn of(pool: &impl Pool, hash: u64) -> Self {
        let len = pool.len();
        let stride = (len / SAMPLE).max(1);
        let offset = if stride > 1 { (mix(hash) % stride as u64) as usize } else { 0 };
        let mut bound = Self { requests: 1, weights: 0 };
        for index in (offset..len).step_by(stride) {
            if pool.ramp(index).is_some() {
                bound.requests += u64::from(pool.in_flight(index));
                bound.weights += u64::from(pool.weight(index));
            }
        }
        bound
    }

    /// True if one more request keeps the endpoint at or below `⌈1.25 × requests × weight / weights⌉`.
    fn allows(&self, pool: &impl Pool, index: usize) -> bool {
        let held = 4 * u64::from(pool.in_flight(index));
        held.saturating_mul(self.weights) < (5 * self.requests).saturating_mul(u64::from(pool.weight(index)))
    }
}

/// The four bytes (little-endian) whose CRC-32 is `hash`: CRC-32 of four bytes is a bijection, run backwards.
fn preimage(hash: u32) -> u32 {
    const POLYNOMIAL: u32 = 0xEDB8_8320;
    let mut state = !hash;
    for _ in 0..32 {
        // The polynomial's top bit is set, so the state's top bit tells whether it was added in this step.
        state = if state >> 31 == 1 { ((state ^ POLYNOMIAL) << 1) | 1 } else { state << 1 };
    }
    !state
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixture::Plain;
    use super::*;

    fn endpoints(count: u16) -> Vec<(SocketAddr, u16)> {
        (0..count).map(|n| (SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 8_080)), 1)).collect()
    }

    fn key(n: u64) -> u64 {
        key_hash(format!("/item/{n}").as_bytes())
    }

    #[test]
    fn a_key_lands_where_the_ketama_ring_puts_it() {
        let endpoints: Vec<(SocketAddr, u16)> =
            endpoints(20).into_iter().zip(1..).map(|((a, _), w)| (a, w)).collect();
        let buckets: Vec<Bucket> = endpoints.iter().map(|(a, w)| Bucket::new(*a, u32::from(*w))).collect();
        let (theirs, ours) = (Continuum::new(&buckets), Ring::new(&endpoints));
        let weights: Vec<u16> = endpoints.iter().map(|(_, weight)| *weight).collect();
        let pool = Plain::weighted(&weights);
        for n in 0..2_000_u64 {
            let text = format!("key-{n}");
            let index = choose(&ours, &pool, key_hash(text.as_bytes())).unwrap();
            assert_eq!(theirs.node(text.as_bytes()), Some(endpoints[index].0));
        }
    }

    #[test]
    fn a_key_stays_and_falls_to_one_neighbour_while_its_endpoint_is_bad() {
        let mut pool = Plain::equal(10);
        let ring = Ring::new(&endpoints(10));
        let home = choose(&ring, &pool, key(1)).unwrap();
        pool.0[home].ramp = None;
        let neighbour = choose(&ring, &pool, key(1)).unwrap();
        assert_ne!(home, neighbour);
        assert!((0..9).all(|_| choose(&ring, &pool, key(1)) == Some(neighbour)));
        pool.0[home].ramp = Some(FULL);
        assert_eq!(choose(&ring, &pool, key(1)), Some(home));
    }

    #[test]
    fn removing_one_endpoint_moves_only_its_own_keys() {
        let all = endpoints(10);
        let mut fewer = all.clone();
        let gone = fewer.remove(4).0;
        let (before, after) = (Ring::new(&all), Ring::new(&fewer));
        let (full, rest) = (Plain::equal(10), Plain::equal(9));
        let mut moved = 0;
        for n in 0..10_000 {
            let old = all[choose(&before, &full, key(n)).unwrap()].0;
            let new = fewer[choose(&after, &rest, key(n)).unwrap()].0;
            if old != new {
                assert_eq!(old, gone);
                moved += 1;
            }
        }
        assert!((700..1_300).contains(&moved), "{moved} of 10,000 moved");
    }

    #[test]
    fn a_hot_key_never_holds_more_than_its_bound() {
        let mut pool = Plain::equal(5);
        let ring = Ring::new(&endpoints(5));
        for _ in 0..1_000 {
            let index = choose(&ring, &pool, key(1)).unwrap();
            pool.0[index].in_flight += 1;
        }
        assert_eq!(pool.0.iter().map(|one| one.in_flight).max(), Some(250));
    }

    #[test]
    fn the_average_of_the_bound_leaves_out_unusable_endpoints() {
        let mut pool = Plain::equal(4);
        pool.0[0].ramp = None;
        pool.0[1].ramp = None;
        let ring = Ring::new(&endpoints(4));
        for n in 0..100 {
            let index = choose(&ring, &pool, key(n)).unwrap();
            pool.0[index].in_flight += 1;
        }
        assert!(pool.0.iter().all(|one| one.in_flight <= 63), "{pool:?}");
    }

    #[test]
    fn in_slow_start_an_endpoint_takes_a_growing_set_of_its_own_keys() {
        let ring = Ring::new(&endpoints(4));
        let mut pool = Plain::equal(4);
        let own: Vec<u64> =
            (0..4_000).map(key).filter(|hash| choose(&ring, &pool, *hash) == Some(2)).collect();
        let mut before: Vec<u64> = Vec::new();
        for quarter in 1..=4 {
            pool.0[2].ramp = Some(FULL / 4 * quarter);
            let taken: Vec<u64> =
                own.iter().copied().filter(|h| choose(&ring, &pool, *h) == Some(2)).collect();
            assert!(before.iter().all(|hash| taken.contains(hash)));
            let expected = own.len() * usize::from(quarter) / 4;
            assert!(taken.len().abs_diff(expected) < own.len() / 10, "{} of {}", taken.len(), own.len());
            before = taken;
        }
        assert_eq!(before.len(), own.len());
    }

    #[test]
    fn huge_weights_do_not_make_a_huge_ring() {
        let ring =
            Ring::new(&[("10.0.0.1:1".parse().unwrap(), u16::MAX), ("10.0.0.2:1".parse().unwrap(), 1)]);
        assert!(ring.owners.len() as u64 <= MOST_POINTS);
        assert!(ring.owners.contains(&1));
    }

    #[test]
    fn without_endpoints_nothing_is_chosen() {
        assert_eq!(choose(&Ring::new(&[]), &Plain::equal(0), 7), None);
        let mut pool = Plain::equal(3);
        pool.0.iter_mut().for_each(|one| one.ramp = None);
        assert_eq!(choose(&Ring::new(&endpoints(3)), &pool, 7), None);
        pool.0[1].ramp = Some(0);
        assert_eq!(choose(&Ring::new(&endpoints(3)), &pool, 7), Some(1));
    }

    proptest! {
        #[test]
        fn every_hash_has_a_preimage(hash: u32) {
            prop_assert_eq!(crc32fast::hash(&preimage(hash).to_le_bytes()), hash);
        }
    }
}
