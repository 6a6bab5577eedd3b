//! The native format's JSON Schema, from the very types that read it.

use schemars::generate::SchemaSettings;

use crate::resource::native::ConfigFile;

/// JSON Schema (draft 2020-12) of a file in the native format, for completion and checks in editors.
#[must_use]
pub fn json_schema() -> serde_json::Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<ConfigFile>().to_value()
}
