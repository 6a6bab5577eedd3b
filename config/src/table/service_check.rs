//! What load balancers in front of nodes ask each of them: whether it has endpoints of a Service itself.

use std::sync::Arc;

use serde::Serialize;

/// Answers for one Service with `externalTrafficPolicy: Local`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceCheck {
    /// `healthCheckNodePort`.
    pub port: u16,
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub name: Arc<str>,
    /// Ready endpoints on this node; those that are going away do not count.
    pub local_endpoints: u32,
}
