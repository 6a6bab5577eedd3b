//! Session tickets (RFC 5077, RFC 8446 §4.6.1): the session is with the client, encrypted with a key that nobody
//! else has and that is replaced regularly. Nothing is stored here, so workers share it without a lock.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use rustls::server::ProducesTickets;

/// How long a key encrypts. It decrypts for as long again.
const ROTATION: Duration = Duration::from_secs(6 * 3_600);
const NAME: usize = 16;

/// Makes and opens tickets with keys of its own.
pub(crate) struct Tickets {
    keys: ArcSwap<Keys>,
}

struct Keys {
    current: Arc<Key>,
    previous: Option<Arc<Key>>,
    since: Instant,
}

struct Key {
    /// Tells which key a ticket is for. Random, as the key.
    name: [u8; NAME],
    key: RandomizedNonceKey,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl Key {
    /// `None` if there is no randomness to be had.
    fn random() -> Option<Self> {
        let (mut name, mut secret) = ([0; NAME], [0; 32]);
        aws_lc_rs::rand::fill(&mut name).ok()?;
        aws_lc_rs::rand::fill(&mut secret).ok()?;
        Some(Self { name, key: RandomizedNonceKey::new(&AES_256_GCM, &secret).ok()? })
    }

    fn open(&self, nonce: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut bytes = sealed.to_vec();
        let length = self.key.open_in_place(nonce, Aad::from(self.name), &mut bytes).ok()?.len();
        bytes.truncate(length);
        Some(bytes)
    }
}

impl Tickets {
    /// With a new key; `None` if there is no randomness to be had.
    pub(crate) fn new(now: Instant) -> Option<Self> {
        let keys = Keys { current: Arc::new(Key::random()?), previous: None, since: now };
        Some(Self { keys: ArcSwap::from_pointee(keys) })
    }

    /// Replaces the key if it has encrypted for long enough. Of several that try at once, one succeeds.
    fn rotate(&self, now: Instant) -> Option<()> {
        let keys = self.keys.load();
        let age = now.saturating_duration_since(keys.since);
        if age < ROTATION {
            return Some(());
        }
        // After a time without any use, the key of before is too old to decrypt, too.
        let previous = (age < 2 * ROTATION).then(|| Arc::clone(&keys.current));
        let new = Keys { current: Arc::new(Key::random()?), previous, since: now };
        self.keys.compare_and_swap(&keys, Arc::new(new));
        Some(())
    }

    fn seal(&self, session: &[u8], now: Instant) -> Option<Vec<u8>> {
        self.rotate(now)?;
        let keys = self.keys.load();
        let Key { name, key } = &*keys.current;
        let mut sealed = session.to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::from(*name), &mut sealed).ok()?;
        Some([&name[..], nonce.as_ref(), &sealed].concat())
    }

    fn open(&self, ticket: &[u8], now: Instant) -> Option<Vec<u8>> {
        self.rotate(now)?;
        let (name, rest) = ticket.split_at_checked(NAME)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let keys = self.keys.load();
        let key = std::iter::once(&keys.current).chain(&keys.previous).find(|key| key.name == *name)?;
        key.open(nonce, sealed)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(ROTATION.as_secs()).unwrap_or(0)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, Instant::now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_opened_by_who_made_it() {
        let now = Instant::now();
        let (tickets, others) = (Tickets::new(now).unwrap(), Tickets::new(now).unwrap());
        let ticket = tickets.seal(b"session", now).unwrap();
        assert_eq!(tickets.open(&ticket, now).as_deref(), Some(&b"session"[..]));
        assert_eq!(others.open(&ticket, now), None);
        assert_ne!(tickets.seal(b"session", now).unwrap(), ticket);
    }

    #[test]
    fn a_ticket_that_was_changed_is_none() {
        let now = Instant::now();
        let tickets = Tickets::new(now).unwrap();
        let ticket = tickets.seal(b"session", now).unwrap();
        for index in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[index] ^= 1;
            assert_eq!(tickets.open(&changed, now), None, "{index}");
            assert_eq!(tickets.open(&ticket[..index], now), None, "{index}");
        }
    }

    #[test]
    fn keys_are_replaced_and_open_for_one_rotation_more() {
        let begin = Instant::now();
        let tickets = Tickets::new(begin).unwrap();
        let ticket = tickets.seal(b"session", begin).unwrap();
        assert!(tickets.open(&ticket, begin + ROTATION).is_some());
        let second = tickets.seal(b"session", begin + ROTATION).unwrap();
        assert_ne!(second[..NAME], ticket[..NAME]);
        assert!(tickets.open(&ticket, begin + 2 * ROTATION - Duration::from_secs(1)).is_some());
        assert_eq!(tickets.open(&ticket, begin + 2 * ROTATION), None);
        assert!(tickets.open(&second, begin + 2 * ROTATION).is_some());
    }

    #[test]
    fn a_key_that_was_not_used_for_long_opens_nothing() {
        let begin = Instant::now();
        let tickets = Tickets::new(begin).unwrap();
        let ticket = tickets.seal(b"session", begin).unwrap();
        assert_eq!(tickets.open(&ticket, begin + 2 * ROTATION), None);
    }
}
