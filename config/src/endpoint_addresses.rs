//! Which addresses endpoints have: a quick "none" to the question whether some endpoint has one of these.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher as _;
use std::net::IpAddr;

use foldhash::quality::FixedState;

use crate::resource::destination;
use crate::resource::endpoint_slice::EndpointSlice;

/// How many endpoints have an address, by a hash of it, which two addresses may share: 10 to 20 bytes for each address, of
/// which there may be 100,000.
#[derive(Debug, Default)]
pub(crate) struct EndpointAddresses {
    counts: HashMap<u32, u32, FixedState>,
}

impl EndpointAddresses {
    /// The endpoints of `slice` are there.
    pub(crate) fn come(&mut self, slice: &EndpointSlice) {
        for key in keys(slice) {
            *self.counts.entry(key).or_default() += 1;
        }
    }

    /// The endpoints of `slice`, which came before, are not there any more.
    pub(crate) fn go(&mut self, slice: &EndpointSlice) {
        for key in keys(slice) {
            if let Entry::Occupied(mut count) = self.counts.entry(key) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
        // The greatest number of endpoints that there ever was is not to cost memory for ever.
        if self.counts.capacity() > 256 && self.counts.len() * 8 < self.counts.capacity() {
            self.counts.shrink_to(self.counts.len() * 2);
        }
    }

    /// False only if no endpoint has `address`, nor one that packets to it arrive at by translation.
    pub(crate) fn may_have(&self, address: IpAddr) -> bool {
        self.counts.contains_key(&key(address))
    }
}

fn keys(slice: &EndpointSlice) -> impl Iterator<Item = u32> {
    let all = slice.endpoints.iter().map(|endpoint| endpoint.address);
    all.flat_map(|ip| std::iter::once(ip).chain(destination::translated(ip))).map(key)
}

fn key(address: IpAddr) -> u32 {
    // The lower half of a good hash is one as well.
    FixedState::default().hash_one(address.to_canonical()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Kind;
    use crate::resource::{ObjectSpec, decode_json};

    fn slice(addresses: &[String]) -> EndpointSlice {
        let endpoints: Vec<_> = addresses.iter().map(|ip| format!(r#"{{"addresses": ["{ip}"]}}"#)).collect();
        let json = format!(
            r#"{{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {{"name": "s", "namespace": "d"}},
                "addressType": "{}", "ports": [{{"port": 80}}], "endpoints": [{}]}}"#,
            if addresses[0].contains(':') { "IPv6" } else { "IPv4" },
            endpoints.join(",")
        );
        match decode_json(Kind::EndpointSlice, json.as_bytes()).object.unwrap().spec {
            ObjectSpec::EndpointSlice(slice) => slice,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_address_is_there_until_its_last_endpoint_goes() {
        let (mut known, at) = (EndpointAddresses::default(), "10.0.0.1".parse().unwrap());
        let both = slice(&["10.0.0.1".to_owned(), "10.0.0.2".to_owned()]);
        let one = slice(&["10.0.0.1".to_owned()]);
        known.come(&both);
        known.come(&one);
        known.go(&both);
        assert!(known.may_have(at));
        assert!(known.may_have("::ffff:10.0.0.1".parse().unwrap()), "it is the same one");
        assert!(!known.may_have("10.0.0.2".parse().unwrap()));
        known.go(&one);
        assert!(!known.may_have(at));
        assert!(known.counts.is_empty());
    }

    #[test]
    fn an_address_that_is_translated_is_both() {
        let mut known = EndpointAddresses::default();
        known.come(&slice(&["64:ff9b::10.0.0.9".to_owned()]));
        assert!(known.may_have("10.0.0.9".parse().unwrap()));
        assert!(known.may_have("64:ff9b::a00:9".parse().unwrap()));
    }

    #[test]
    fn what_went_costs_nothing() {
        let mut known = EndpointAddresses::default();
        let all: Vec<_> = (0..10_000).map(|n| slice(&[format!("10.1.{}.{}", n / 250, n % 250)])).collect();
        all.iter().for_each(|slice| known.come(slice));
        all.iter().for_each(|slice| known.go(slice));
        assert!(known.counts.capacity() <= 256, "{}", known.counts.capacity());
    }
}
