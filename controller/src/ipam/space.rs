//! The addresses of one family of a pool, counted through without gaps: where an address stands, and which one stands
//! where. Nothing is listed, so that a /64 costs as much as one address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use config::resource::AddressRange;

use super::request::Family;

/// Addresses of one family, in order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Space {
    /// Sorted; they neither overlap nor touch.
    segments: Vec<Segment>,
    size: u128,
    /// Addresses that end in .0 or .255 are not of it.
    is_dense: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Segment {
    /// Of all addresses of the space, how many are before it.
    rank: u128,
    first: u128,
    last: u128,
}

/// How many addresses of 256 are left without .0 and .255.
const OF_BLOCK: u128 = 254;

impl Space {
    /// The addresses of `family` in `ranges`; without those in .0 and .255, if `avoid` is set.
    pub(super) fn new(family: Family, ranges: &[AddressRange], avoid: bool) -> Self {
        let is_dense = avoid && family == Family::V4;
        let mut ends: Vec<(u128, u128)> = ranges
            .iter()
            .filter(|range| Family::of(range.first()) == family)
            .filter_map(|range| {
                let (first, last) = (number(range.first()), number(range.last()));
                if !is_dense {
                    return Some((first, last));
                }
                let (first, last) = (dense_from(first), dense_to(last)?);
                (first <= last).then_some((first, last))
            })
            .collect();
        ends.sort_unstable();
        let mut space = Self { segments: Vec::new(), size: 0, is_dense };
        for (first, last) in ends {
            match space.segments.last_mut() {
                Some(before) if first <= before.last.saturating_add(1) => before.last = before.last.max(last),
                _ => space.segments.push(Segment { rank: 0, first, last }),
            }
        }
        for segment in &mut space.segments {
            segment.rank = space.size;
            space.size += segment.last - segment.first + 1;
        }
        space
    }

    /// How many addresses there are.
    pub(super) fn size(&self) -> u128 {
        self.size
    }

    /// How many addresses are before `address`, which is of this family; `None` if it is not in the space.
    pub(super) fn rank(&self, address: IpAddr) -> Option<u128> {
        let mut number = number(address);
        if self.is_dense {
            if matches!(number & 255, 0 | 255) {
                return None;
            }
            number = dense_from(number);
        }
        let at = self.segments.partition_point(|segment| segment.first <= number).checked_sub(1)?;
        let segment = self.segments.get(at).filter(|segment| number <= segment.last)?;
        Some(segment.rank + (number - segment.first))
    }

    /// Where those of the addresses from `first` to `last` stand that are in the space, as first and last place.
    pub(super) fn places(&self, first: IpAddr, last: IpAddr) -> impl Iterator<Item = (u128, u128)> {
        let (first, last) = (number(first), number(last));
        let ends = match self.is_dense {
            true => dense_to(last).map(|last| (dense_from(first), last)),
            false => Some((first, last)),
        };
        ends.into_iter().flat_map(|(first, last)| {
            // Segments are sorted; those before the first one are over.
            let at = self.segments.partition_point(|segment| segment.last < first);
            let rest = self.segments.get(at..).unwrap_or_default();
            rest.iter().take_while(move |segment| segment.first <= last).filter_map(move |segment| {
                let (from, to) = (segment.first.max(first), segment.last.min(last));
                (from <= to)
                    .then(|| (segment.rank + (from - segment.first), segment.rank + (to - segment.first)))
            })
        })
    }

    /// The address with so many before it.
    pub(super) fn at(&self, family: Family, rank: u128) -> Option<IpAddr> {
        if rank >= self.size {
            return None;
        }
        let at = self.segments.partition_point(|segment| segment.rank <= rank).checked_sub(1)?;
        let segment = self.segments.get(at)?;
        let mut number = segment.first + (rank - segment.rank);
        if self.is_dense {
            number = number / OF_BLOCK * 256 + number % OF_BLOCK + 1;
        }
        match family {
            Family::V4 => u32::try_from(number).ok().map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            Family::V6 => Some(IpAddr::V6(Ipv6Addr::from_bits(number))),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Where the first address from `number` on stands, .0 and .255 not counted.
fn dense_from(number: u128) -> u128 {
    (number >> 8) * OF_BLOCK + (number & 255).saturating_sub(1)
}

/// Where the last address up to `number` stands, .0 and .255 not counted.
fn dense_to(number: u128) -> Option<u128> {
    match (number >> 8, number & 255) {
        (block, 0) => (block * OF_BLOCK).checked_sub(1),
        (block, 255) => Some(block * OF_BLOCK + OF_BLOCK - 1),
        (block, low) => Some(block * OF_BLOCK + low - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(text: &str, avoid: bool) -> Space {
        let ranges: Vec<AddressRange> = text.split(',').map(|text| text.parse().unwrap()).collect();
        Space::new(Family::V4, &ranges, avoid)
    }

    fn all(space: &Space) -> Vec<String> {
        let all = (0..space.size()).map(|rank| space.at(Family::V4, rank).unwrap());
        all.inspect(|ip| assert!(space.rank(*ip).is_some())).map(|ip| ip.to_string()).collect()
    }

    #[test]
    fn ranges_that_overlap_or_touch_are_counted_once() {
        let space = space("192.0.2.4-192.0.2.6,192.0.2.5-192.0.2.7,192.0.2.8,192.0.2.1", false);
        let wanted = ["192.0.2.1", "192.0.2.4", "192.0.2.5", "192.0.2.6", "192.0.2.7", "192.0.2.8"];
        assert_eq!(all(&space), wanted);
        assert_eq!(space.rank("192.0.2.3".parse().unwrap()), None);
        assert_eq!(space.rank("192.0.2.9".parse().unwrap()), None);
    }

    #[test]
    fn the_first_and_last_address_of_each_block_can_be_left_out() {
        assert_eq!(
            all(&space("192.0.1.253-192.0.2.2", true)),
            ["192.0.1.253", "192.0.1.254", "192.0.2.1", "192.0.2.2"]
        );
        assert_eq!(all(&space("192.0.1.255-192.0.2.0", true)), Vec::<String>::new());
        assert_eq!(all(&space("192.0.2.0", true)), Vec::<String>::new());
        assert_eq!(all(&space("192.0.2.254-192.0.2.255", true)), ["192.0.2.254"]);
        assert_eq!(space("10.0.0.0/8", true).size(), 65_536 * 254);
        assert_eq!(space("192.0.2.0/24", true).rank("192.0.2.255".parse().unwrap()), None);
    }

    #[test]
    fn a_network_within_is_a_few_places() {
        let places = |space: &Space, first: &str, last: &str| -> Vec<(u128, u128)> {
            space.places(first.parse().unwrap(), last.parse().unwrap()).collect()
        };
        let plain = space("192.0.2.4-192.0.2.7,192.0.2.10-192.0.2.12", false);
        assert_eq!(places(&plain, "192.0.2.6", "192.0.2.11"), [(2, 3), (4, 5)]);
        assert_eq!(places(&plain, "192.0.2.8", "192.0.2.9"), []);
        assert_eq!(places(&plain, "0.0.0.0", "255.255.255.255"), [(0, 3), (4, 6)]);
        let dense = space("192.0.1.253-192.0.2.2", true);
        assert_eq!(places(&dense, "192.0.1.254", "192.0.2.1"), [(1, 2)]);
        assert_eq!(places(&dense, "192.0.1.255", "192.0.2.0"), []);
    }

    #[test]
    fn a_large_pool_costs_nothing() {
        let ranges = ["2001:db8::/64".parse().unwrap(), "2001:db8:1::/48".parse().unwrap()];
        let space = Space::new(Family::V6, &ranges, true);
        assert_eq!(space.size(), (1 << 64) + (1 << 80));
        assert_eq!(space.at(Family::V6, 1 << 64), Some("2001:db8:1::".parse().unwrap()));
        assert_eq!(space.rank("2001:db8:1::1".parse().unwrap()), Some((1 << 64) + 1));
    }
}
