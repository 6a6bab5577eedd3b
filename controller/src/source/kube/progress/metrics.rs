//! Figures of the source in the Prometheus text format. Decides nothing.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Count, Figures, Origin, Progress};

impl Count {
    const ALL: [(Self, &'static str, &'static str); 3] = [
        (Self::Lists, "lists_total", "Lists taken, by resource; more than one if a watch could not go on."),
        (Self::Watches, "watches_total", "Watches opened, by resource."),
        (Self::DecodeFailures, "decode_failures_total", "Objects received that do not decode, by resource."),
    ];
}

impl Progress {
    /// Appends all figures in the Prometheus text format.
    pub fn render_metrics(&self, out: &mut String) {
        let inner = self.lock();
        let now = SystemTime::now();
        let from_disk = u8::from(matches!(inner.origin, Origin::Disk(_)));
        single(
            out,
            "served_from_disk",
            "1 while the configuration in use is the one kept on disk.",
            &from_disk,
        );
        single(
            out,
            "config_age_seconds",
            "Time since the API server last said that the configuration in use is complete.",
            &inner.age(now).as_secs_f64(),
        );
        let mut synced: BTreeMap<&str, (bool, usize)> = BTreeMap::new();
        let mut contacts: BTreeMap<&str, SystemTime> = BTreeMap::new();
        for feed in &inner.feeds {
            let name = feed.target.resource.name();
            let (is_synced, objects) = synced.entry(name).or_insert((true, 0));
            *is_synced &= feed.is_synced;
            *objects += feed.objects;
            let contact = feed.contact.unwrap_or(UNIX_EPOCH);
            let oldest = contacts.entry(name).or_insert(contact);
            *oldest = contact.min(*oldest);
        }
        let well = synced.iter().map(|(name, (is_synced, _))| (*name, u8::from(*is_synced)));
        by_resource(out, "synced", "gauge", "1 when the list of the resource is complete.", well);
        let objects = synced.iter().map(|(name, (_, objects))| (*name, *objects));
        by_resource(out, "objects", "gauge", "Objects known, by resource.", objects);
        let undecoded =
            synced.keys().map(|name| (*name, inner.undecoded.get(name).copied().unwrap_or_default()));
        let help = "Objects whose last version does not decode, by resource.";
        by_resource(out, "undecoded", "gauge", help, undecoded);
        let contacts = contacts
            .into_iter()
            .map(|(name, at)| (name, at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()));
        let help = "When the API server last said that nothing of the resource is missing; 0 if never.";
        by_resource(out, "last_contact_timestamp_seconds", "gauge", help, contacts);
        for (count, name, help) in Count::ALL {
            let of = inner.counts.iter().filter(|((counted, _), _)| *counted == count);
            by_resource(out, name, "counter", help, of.map(|((_, resource), value)| (*resource, *value)));
        }
        labelled(out, "events_total", "type", "Events of watches, by resource and type.", &inner.events);
        labelled(out, "failures_total", "cause", "Failed requests, by resource and cause.", &inner.failures);
        let Some(Figures(journal)) = &inner.journal else { return };
        let [bytes, writes, failures] = journal();
        single(out, "state_bytes", "Size of the configuration kept on disk.", &bytes);
        head(
            out,
            "state_writes_total",
            "counter",
            "Times that the configuration kept on disk was written to.",
        );
        let _ = writeln!(out, "{PREFIX}state_writes_total {writes}");
        head(out, "state_failures_total", "counter", "Times that it could not be written to.");
        let _ = writeln!(out, "{PREFIX}state_failures_total {failures}");
    }
}

const PREFIX: &str = "sluicegate_kubernetes_";

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}");
}

fn single(out: &mut String, name: &str, help: &str, value: &dyn Display) {
    head(out, name, "gauge", help);
    let _ = writeln!(out, "{PREFIX}{name} {value}");
}

fn by_resource<'a>(
    out: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    values: impl Iterator<Item = (&'a str, impl Display)>,
) {
    head(out, name, kind, help);
    for (resource, value) in values {
        let _ = writeln!(out, "{PREFIX}{name}{{resource=\"{resource}\"}} {value}");
    }
}

fn labelled(
    out: &mut String,
    name: &str,
    label: &str,
    help: &str,
    values: &BTreeMap<(&'static str, &'static str), u64>,
) {
    head(out, name, "counter", help);
    for ((resource, key), value) in values {
        let _ = writeln!(out, "{PREFIX}{name}{{resource=\"{resource}\",{label}=\"{key}\"}} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of metrics in a text of theirs.
    fn rendered() -> Vec<String> {
        let progress = Progress::default();
        progress.watch_journal(Box::new(|| [1, 2, 3]));
        let mut text = String::new();
        progress.render_metrics(&mut text);
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn page_of_metrics_lists_what_is_rendered() {
        let page = include_str!("../../../../../docs/metrics.md");
        let section =
            page.split("\n## Objects of a cluster\n").nth(1).unwrap().split("\n## ").next().unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `sluicegate"));
        let mut listed: Vec<String> =
            rows.map(|row| format!("sluicegate{}", row.split('`').next().unwrap())).collect();
        let mut rendered = rendered();
        rendered.sort();
        listed.sort();
        assert_eq!(listed, rendered);
    }
}
