//! Server-side apply of a configuration to a stored object, or to none.

use serde_json::{Value, json};

use super::{Writer, Writing, unmanaged, untyped};
use crate::decode::{Findings, decode};
use crate::error::Failure;
use crate::fields::{self, Applied, Conflict, Managers};
use crate::{meta, shape};

impl Writer<'_> {
    /// The object and its managers after an apply; checked for its form, not yet for what it means.
    pub(super) fn apply(
        &self,
        name: &str,
        live: Option<&Value>,
        config: &Value,
        writing: &Writing,
    ) -> Result<Applied, Failure> {
        self.check_config(name, live, config)?;
        let managers = live.and_then(|live| Managers::read(live.pointer("/metadata/managedFields")));
        let mut empty = self.empty();
        shape::put(&mut empty, "kind", Some((&*self.kind.kind).into()));
        shape::put(&mut empty, "apiVersion", Some(self.kind.api_version().into()));
        let known = unmanaged(live.cloned().unwrap_or_else(|| empty.clone()));
        let applied = fields::Apply {
            live: &known,
            config,
            is: &self.kind.schema,
            managers: managers.unwrap_or_default(),
            writer: &writing.writer(&self.kind),
            ignored: &self.ignored(writing),
            unmanaged: live.is_some().then_some(&empty),
            force: writing.force,
        }
        .run()
        .map_err(|conflicts| refused(&conflicts))?;
        let object = decode(applied.object, &self.kind.schema, &mut Findings::default())
            .map_err(|why| Failure::bad_request(format!("failed to convert merged object: {why}")))?;
        Ok(Applied { object: untyped(object), managers: applied.managers })
    }

    fn check_config(&self, name: &str, live: Option<&Value>, config: &Value) -> Result<(), Failure> {
        let said = |field: &str| config.get(field).and_then(Value::as_str).unwrap_or_default();
        let (kind, version) = (said("kind"), said("apiVersion"));
        if kind != &*self.kind.kind || version != self.kind.api_version() {
            let version =
                if version.contains('/') { version.replace('/', ", ") } else { format!("/{version}") };
            return Err(Failure::bad_request(format!("invalid object type: {version}, Kind={kind}")));
        }
        if config.pointer("/metadata/managedFields").is_some_and(|list| !list.is_null()) {
            return Err(Failure::bad_request("metadata.managedFields must be nil"));
        }
        self.check_identity(name, config, false)?;
        if let (Some(live), Some(version)) = (live, meta::text(config, "resourceVersion"))
            && meta::text(live, "resourceVersion").as_deref() != Some(version.as_str())
        {
            return Err(Failure::stale(&self.kind, name));
        }
        fields::check(config, &self.kind.schema, &mut String::new()).map_err(|why| {
            let group = if self.kind.group.is_empty() { "" } else { &*self.kind.group };
            Failure::plain(format!(
                "failed to create typed patch object (/{name}; {group}/{}, Kind={}): {why}",
                self.kind.version, self.kind.kind
            ))
        })
    }
}

fn refused(conflicts: &[Conflict]) -> Failure {
    let causes = conflicts
        .iter()
        .map(|conflict| {
            let message = format!("conflict with {}", conflict.manager);
            json!({"reason": "FieldManagerConflict", "message": message, "field": conflict.field})
        })
        .collect();
    let words = match conflicts {
        [one] => format!("1 conflict: conflict with {}: {}", one.manager, one.field),
        many => {
            let mut words = format!("{} conflicts:", many.len());
            let mut last = "";
            for conflict in many {
                if conflict.manager != last {
                    words.push_str(&format!(" conflicts with {}:", conflict.manager));
                    last = &conflict.manager;
                }
                words.push_str(&format!("\n- {}", conflict.field));
            }
            words
        }
    };
    Failure::apply_conflict(format!("Apply failed with {words}"), causes)
}
