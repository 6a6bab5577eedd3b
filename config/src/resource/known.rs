//! Fields of Kubernetes types that we do not use but know, so that only fields that exist nowhere are
//! reported as unknown.

/// Fields of the wire struct `name` that are valid and not read.
pub(crate) fn unused_fields(name: &str) -> &'static [&'static str] {
    match name {
        "ObjectMeta" => &[
            "generateName",
            "selfLink",
            "resourceVersion",
            "generation",
            "deletionGracePeriodSeconds",
            "ownerReferences",
            "finalizers",
            "managedFields",
            "clusterName",
            "initializers",
            "uid",
        ],
        "IngressObject" | "IngressClassObject" => &["apiVersion", "kind", "status"],
        "ServiceObject" => &["apiVersion", "kind"],
        "EndpointSliceObject" => &["apiVersion", "kind"],
        "SecretObject" => &["apiVersion", "kind", "immutable"],
        "AddressPoolObject" | "L2AdvertisementObject" => &["apiVersion", "kind", "status"],
        "NamespaceObject" => &["apiVersion", "kind", "spec", "status"],
        "L2Advertisement" => &["preferredNodeSelectors"],
        "ConfigMapObject" => &["apiVersion", "kind", "immutable", "binaryData"],
        "ResourceRef" => &["apiGroup"],
        "ServiceSpec" => &["allocateLoadBalancerNodePorts", "externalIPs", "ipFamily", "topologyKeys"],
        "SliceEndpointSpec" => &["deprecatedTopology", "hostname", "topology"],
        "SliceTargetRef" => &["apiVersion", "fieldPath", "resourceVersion", "kind", "namespace", "name"],
        "SlicePortSpec" => &["appProtocol"],
        _ => &[],
    }
}
