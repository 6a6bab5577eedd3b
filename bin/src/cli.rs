//! The command line: every command, flag and environment variable, and nothing of what they do.

mod value;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use controller::status::Address;
use gateway::announce::Pattern;
use ipnet::IpNet;

pub(crate) use self::value::{Listen, MapName, SecretName, ServiceName, StateDir};
use self::value::{
    class_name, interface, lease, namespace, network, object_name, positive_duration, published,
};

const EXAMPLES: &str = "\
Examples:
  sluicegate demo
  sluicegate run --config examples/quickstart/ --http 127.0.0.1:8080
  sluicegate check examples/quickstart/
  sluicegate explain GET http://shop.example.com/cart --config examples/quickstart/";

/// Load balancer, Ingress controller and edge proxy in one binary.
#[derive(Debug, Parser)]
#[command(name = "sluicegate", version, about, after_help = EXAMPLES, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve what files and folders, or the Ingresses of a cluster, describe, and follow their changes
    Run(Box<RunArgs>),
    /// Say what is wrong with manifests and native files, without serving them
    Check(CheckArgs),
    /// Say which route would serve a request, and why the others would not
    Explain(ExplainArgs),
    /// Start a gateway with three backends on this machine and show what it does
    Demo(DemoArgs),
    /// Print the JSON Schema of the native file format, for completion in editors
    #[command(after_help = SCHEMA_EXAMPLES)]
    Schema,
    /// Print the version
    Version(VersionArgs),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETION_EXAMPLES)]
    Completion {
        /// The shell
        shell: Shell,
    },
}

const SCHEMA_EXAMPLES: &str = "\
Examples:
  sluicegate schema > sluicegate.schema.json
  # then, as the first line of a native file, for editors with a YAML language server:
  # yaml-language-server: $schema=sluicegate.schema.json";

const COMPLETION_EXAMPLES: &str = "\
Examples:
  sluicegate completion bash > ~/.local/share/bash-completion/completions/sluicegate
  sluicegate completion zsh > ~/.zfunc/_sluicegate
  sluicegate completion fish > ~/.config/fish/completions/sluicegate.fish";

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

const RUN_EXAMPLES: &str = "\
Examples:
  # Ingress manifests of a folder, on a port that needs no rights
  sluicegate run --config examples/quickstart/ --http 127.0.0.1:8080
  # a native file that has its own listeners, access log as JSON on standard output
  sluicegate run --config edge.yaml --http none --access-log json
  # behind a load balancer that speaks the PROXY protocol, with a drain of a minute
  sluicegate run --config /etc/sluicegate --http 0.0.0.0:80 --proxy-protocol --drain-timeout 60s
  # the Ingresses of a cluster; in a Pod, --kubernetes is enough
  sluicegate run --kubernetes --kubeconfig ~/.kube/config --http 127.0.0.1:8080

Signals:
  SIGTERM, SIGINT   drain and exit; a second one exits at once
  SIGHUP            read everything again, reopen the access log

Exit status: 0 after a drain, 1 when something could not be started.";

#[derive(Args, Clone, Debug)]
#[command(after_help = RUN_EXAMPLES)]
pub(crate) struct RunArgs {
    /// Files and folders to serve: Kubernetes manifests (Ingress, IngressClass, Service, EndpointSlice, Secret,
    /// ConfigMap) and native files. Below a folder, every *.yaml, *.yml and *.json is read, and read again on change
    #[arg(long, value_name = "PATH", num_args = 1.., required_unless_present = "kubernetes", env = "SLUICEGATE_CONFIG")]
    pub(crate) config: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,

    #[command(flatten)]
    pub(crate) status: StatusArgs,

    #[command(flatten)]
    pub(crate) announce: AnnounceArgs,

    #[command(flatten)]
    pub(crate) ingress: IngressArgs,

    /// Where /livez, /readyz, /metrics and /debug/table are served, or "none"
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9901", env = "SLUICEGATE_ADMIN")]
    pub(crate) admin: Listen,

    /// Worker threads, each with its own sockets; default: one for each usable core
    #[arg(long, value_name = "N", env = "SLUICEGATE_WORKERS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) workers: Option<u16>,

    /// Access log format
    #[arg(long, value_name = "FORMAT", default_value = "off", env = "SLUICEGATE_ACCESS_LOG")]
    pub(crate) access_log: AccessLogFormat,

    /// Access log file, appended to and reopened on SIGHUP; default: standard output
    #[arg(long, value_name = "PATH", env = "SLUICEGATE_ACCESS_LOG_FILE")]
    pub(crate) access_log_file: Option<PathBuf>,

    /// What is logged on standard error: error, warn, info, debug, trace, or a filter such as info,gateway=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "SLUICEGATE_LOG_LEVEL")]
    pub(crate) log_level: String,

    /// Form of the log on standard error
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "SLUICEGATE_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,

    /// After SIGTERM, go on serving this long with readiness off, so that whoever sends traffic can notice.
    /// Behind a load balancer or in a cluster, 5s to 15s are usual; standalone there is nobody to wait for
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration, env = "SLUICEGATE_LAME_DUCK")]
    pub(crate) lame_duck: Duration,

    /// After the lame-duck time, let requests that are under way finish for this long
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration, env = "SLUICEGATE_DRAIN_TIMEOUT")]
    pub(crate) drain_timeout: Duration,
}

/// Heading of [`ClusterArgs`] in the help.
const CLUSTER: &str = "Kubernetes";

/// Which objects of a cluster are served.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClusterArgs {
    /// Serve the Ingresses of a cluster, and follow its API server
    #[arg(long, env = "SLUICEGATE_KUBERNETES", conflicts_with = "config", help_heading = CLUSTER)]
    pub(crate) kubernetes: bool,

    /// How the API server is reached; default: $KUBECONFIG or ~/.kube/config, else the service account of the Pod
    #[arg(long, value_name = "PATH", conflicts_with = "config", env = "SLUICEGATE_KUBECONFIG", help_heading = CLUSTER)]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// Only objects of these namespaces; default: all. IngressClasses have none
    #[arg(long, value_name = "NAMESPACE", num_args = 1.., value_delimiter = ',', conflicts_with = "config", value_parser = namespace, env = "SLUICEGATE_WATCH_NAMESPACE", help_heading = CLUSTER)]
    pub(crate) watch_namespace: Vec<String>,

    /// Only objects of namespaces with these labels, as in `team=web,stage!=test`
    #[arg(long, value_name = "LABELS", conflicts_with_all = ["config", "watch_namespace"], value_parser = NonEmptyStringValueParser::new(), env = "SLUICEGATE_WATCH_NAMESPACE_SELECTOR", help_heading = CLUSTER)]
    pub(crate) watch_namespace_selector: Option<String>,

    /// Only Ingresses with these labels, as in `edge in (public,partner)`
    #[arg(long, value_name = "LABELS", conflicts_with = "config", value_parser = NonEmptyStringValueParser::new(), env = "SLUICEGATE_WATCH_SELECTOR", help_heading = CLUSTER)]
    pub(crate) watch_selector: Option<String>,

    /// Folder in which the objects in use are kept, keys among them, for a start while the API server is away; or "none".
    /// Default: /var/lib/sluicegate in a cluster, if it is there and can be written to. With --config, the addresses that
    /// pools gave to Services are kept there, if it is given
    #[arg(long, value_name = "PATH", env = "SLUICEGATE_STATE_DIR", help_heading = CLUSTER)]
    pub(crate) state_dir: Option<StateDir>,
}

/// Heading of [`StatusArgs`] in the help.
const STATUS: &str = "Kubernetes status";

/// What is written back to a cluster.
#[derive(Args, Clone, Debug)]
pub(crate) struct StatusArgs {
    /// Write the status of Ingresses, and Events for what is wrong with objects
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true, env = "SLUICEGATE_UPDATE_STATUS", help_heading = STATUS)]
    pub(crate) update_status: bool,

    /// Service whose addresses Ingresses get: those of its load balancer and its external ones, else those inside the
    /// cluster
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with_all = ["config", "publish_address"], env = "SLUICEGATE_PUBLISH_SERVICE", help_heading = STATUS)]
    pub(crate) publish_service: Option<ServiceName>,

    /// Addresses and DNS names that Ingresses get
    #[arg(long, value_name = "ADDRESS", num_args = 1.., value_delimiter = ',', conflicts_with = "config", value_parser = published, env = "SLUICEGATE_PUBLISH_ADDRESS", help_heading = STATUS)]
    pub(crate) publish_address: Vec<Address>,

    /// Without those two, Ingresses get addresses of the nodes that Pods with these labels run on; default: the labels
    /// that our own Pod shares with its replicas
    #[arg(long, value_name = "LABELS", conflicts_with = "config", value_parser = NonEmptyStringValueParser::new(), env = "SLUICEGATE_POD_SELECTOR", help_heading = STATUS)]
    pub(crate) pod_selector: Option<String>,

    /// Which addresses of nodes: external ones (internal ones of a node that has none), or internal ones
    #[arg(long, value_name = "KIND", default_value = "external", conflicts_with = "config", env = "SLUICEGATE_PUBLISH_NODE_ADDRESS", help_heading = STATUS)]
    pub(crate) publish_node_address: NodeAddressKind,

    /// At the end, take our addresses out of the status of Ingresses, unless another replica runs
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, default_value_t = false, default_missing_value = "true", num_args = 0..=1, require_equals = true, env = "SLUICEGATE_UPDATE_STATUS_ON_SHUTDOWN", help_heading = STATUS)]
    pub(crate) update_status_on_shutdown: bool,

    /// Lease by which replicas agree on who writes; another installation needs another one
    #[arg(long, value_name = "NAME", default_value = "sluicegate-leader", value_parser = object_name, env = "SLUICEGATE_ELECTION_ID", help_heading = STATUS)]
    pub(crate) election_id: String,

    /// Namespace of the Lease; default: the namespace of the Pod, else that of the kubeconfig
    #[arg(long, value_name = "NAMESPACE", conflicts_with = "config", value_parser = namespace, env = "SLUICEGATE_ELECTION_NAMESPACE", help_heading = STATUS)]
    pub(crate) election_namespace: Option<String>,

    /// Pod that this runs in
    // Not judged: outside of a cluster the variables may stand for anything.
    #[arg(long, value_name = "NAME", env = "POD_NAME", help_heading = STATUS)]
    pub(crate) pod_name: Option<String>,

    /// Namespace of that Pod
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", help_heading = STATUS)]
    pub(crate) pod_namespace: Option<String>,
}

/// Which addresses of a node Ingresses get.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum NodeAddressKind {
    External,
    Internal,
}

/// Heading of [`AnnounceArgs`] in the help.
const ANNOUNCE: &str = "Announcing";

/// How neighbours learn where addresses of Services are.
#[derive(Args, Clone, Debug)]
pub(crate) struct AnnounceArgs {
    /// Have the addresses of Services on this host while it is the one to announce them, and answer ARP and NDP for them.
    /// Needs CAP_NET_ADMIN and CAP_NET_RAW
    #[arg(long, value_name = "KIND", default_value = "none", env = "SLUICEGATE_ANNOUNCE", help_heading = ANNOUNCE)]
    pub(crate) announce: AnnounceKind,

    /// Interfaces that may be used, such as eth0 or bond*; default: all. Of these, the one whose network has the address,
    /// else the first that is named
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',', value_parser = interface, env = "SLUICEGATE_ANNOUNCE_INTERFACES", help_heading = ANNOUNCE)]
    pub(crate) announce_interfaces: Vec<Pattern>,

    /// How long an address stays with a host that is silent: whole seconds, renewed at a third
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = lease, env = "SLUICEGATE_ANNOUNCE_LEASE", help_heading = ANNOUNCE)]
    pub(crate) announce_lease: Duration,
}

/// How addresses are announced.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum AnnounceKind {
    None,
    L2,
}

/// What shapes the compiled table besides the objects.
#[derive(Args, Clone, Debug)]
pub(crate) struct IngressArgs {
    /// Where Ingresses are served over HTTP, or "none"; default 0.0.0.0:80 as root or in a cluster,
    /// 127.0.0.1:8080 otherwise
    #[arg(long, value_name = "ADDR", env = "SLUICEGATE_HTTP")]
    pub(crate) http: Option<Listen>,

    /// Where Ingresses are served over HTTPS, or "none"; default 0.0.0.0:443 as root or in a cluster,
    /// 127.0.0.1:8443 otherwise
    #[arg(long, value_name = "ADDR", env = "SLUICEGATE_HTTPS")]
    pub(crate) https: Option<Listen>,

    /// Secret with the certificate for names that no other one is for; default: a self-signed one, made at start
    #[arg(long, value_name = "NAMESPACE/NAME", env = "SLUICEGATE_DEFAULT_CERTIFICATE")]
    pub(crate) default_certificate: Option<SecretName>,

    /// Class that is ours by its name: in the annotation kubernetes.io/ingress.class, and where there is no
    /// IngressClass of this name
    #[arg(long, value_name = "NAME", default_value = "sluicegate", value_parser = class_name, env = "SLUICEGATE_INGRESS_CLASS")]
    pub(crate) ingress_class: String,

    /// Controller by which an IngressClass is ours (its spec.controller); k8s.io/ingress-nginx takes over the classes
    /// of ingress-nginx
    #[arg(
        long,
        value_name = "NAME",
        default_value = "sluicegate.dev/ingress-controller",
        value_parser = NonEmptyStringValueParser::new(),
        env = "SLUICEGATE_CONTROLLER_CLASS"
    )]
    pub(crate) controller_class: String,

    /// Serve Ingresses without a class whatever classes there are, and not only if ours is the default one
    #[arg(long, env = "SLUICEGATE_WATCH_INGRESS_WITHOUT_CLASS")]
    pub(crate) watch_ingress_without_class: bool,

    /// Node that this runs on, for Services that prefer endpoints of the same node; in a cluster, its labels say the zone
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), env = "NODE_NAME", help_heading = ENDPOINTS)]
    pub(crate) node_name: Option<String>,

    /// Zone that this runs in, for Services that prefer endpoints of the same zone; default: in a cluster, the node's
    /// label topology.kubernetes.io/zone
    #[arg(long, value_name = "ZONE", value_parser = NonEmptyStringValueParser::new(), env = "SLUICEGATE_ZONE", help_heading = ENDPOINTS)]
    pub(crate) zone: Option<String>,

    /// Do not serve Services of type ExternalName
    #[arg(long, env = "SLUICEGATE_DISABLE_SVC_EXTERNAL_NAME", help_heading = ENDPOINTS)]
    pub(crate) disable_svc_external_name: bool,

    /// Require a PROXY protocol header (v1 or v2) on the Ingress addresses
    #[arg(long, env = "SLUICEGATE_PROXY_PROTOCOL", help_heading = "Ingress address")]
    pub(crate) proxy_protocol: bool,

    /// Networks whose X-Forwarded-* and X-Request-ID are believed
    #[arg(long, value_name = "CIDR", num_args = 1.., value_delimiter = ',', value_parser = network, env = "SLUICEGATE_TRUSTED_PROXY", help_heading = "Ingress address")]
    pub(crate) trusted_proxy: Vec<IpNet>,

    #[command(flatten)]
    pub(crate) services: ServiceArgs,

    #[command(flatten)]
    pub(crate) limits: LimitArgs,
}

/// Heading of [`ServiceArgs`] in the help.
const SERVICES: &str = "Services";

/// Which Services are served at addresses and ports of their own.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServiceArgs {
    /// Kinds of Services that are served at addresses of their own: what comes there is relayed to their endpoints. Ports below 1024
    /// need CAP_NET_BIND_SERVICE
    #[arg(long, value_name = "TYPE", num_args = 1.., value_delimiter = ',', env = "SLUICEGATE_SERVICE_TYPES", help_heading = SERVICES)]
    pub(crate) service_types: Vec<ServiceType>,

    /// Services of type LoadBalancer without a loadBalancerClass are ours as well as those of the class
    /// sluicegate.dev/load-balancer; with --config, they always are
    #[arg(long, env = "SLUICEGATE_DEFAULT_LOAD_BALANCER", help_heading = SERVICES)]
    pub(crate) default_load_balancer: bool,

    /// Networks whose addresses a Service of type LoadBalancer has by asking for them; default: none in a cluster, where
    /// anybody may ask for anything, and all with --config
    #[arg(long, value_name = "CIDR", num_args = 1.., value_delimiter = ',', value_parser = network, env = "SLUICEGATE_LOAD_BALANCER_ADDRESSES", help_heading = SERVICES)]
    pub(crate) load_balancer_addresses: Vec<IpNet>,

    /// In a cluster, take addresses from MetalLB's IPAddressPools as well, and read its L2Advertisements. Not while MetalLB
    /// itself gives addresses of them away
    #[arg(long, env = "SLUICEGATE_METALLB_POOLS", help_heading = SERVICES)]
    pub(crate) metallb_pools: bool,

    /// Networks of those addresses of this host, as it has them at the start, on which ports of the node are served;
    /// default: all
    #[arg(long, value_name = "CIDR", num_args = 1.., value_delimiter = ',', value_parser = network, env = "SLUICEGATE_NODEPORT_ADDRESSES", help_heading = SERVICES)]
    pub(crate) nodeport_addresses: Vec<IpNet>,

    /// Speak to endpoints from the addresses of their clients where a Service (sluicegate.dev/source-address: client) or a
    /// listener (sourceAddress: client) wants that. Needs CAP_NET_ADMIN, and routes that lead what endpoints answer back
    /// to this host
    #[arg(long, env = "SLUICEGATE_TRANSPARENT", help_heading = SERVICES)]
    pub(crate) transparent: bool,

    /// ConfigMap that says which Services TCP ports of this host lead to, as ingress-nginx has it:
    /// PORT: "NAMESPACE/SERVICE:PORT", and :PROXY after it where it is to be read, and :PROXY again where it is to be sent
    #[arg(long, value_name = "NAMESPACE/NAME", env = "SLUICEGATE_TCP_SERVICES_CONFIGMAP", help_heading = SERVICES)]
    pub(crate) tcp_services_configmap: Option<MapName>,

    /// The same of UDP ports: PORT: "NAMESPACE/SERVICE:PORT"
    #[arg(long, value_name = "NAMESPACE/NAME", env = "SLUICEGATE_UDP_SERVICES_CONFIGMAP", help_heading = SERVICES)]
    pub(crate) udp_services_configmap: Option<MapName>,
}

/// A kind of addresses that Services have.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum ServiceType {
    LoadBalancer,
    NodePort,
    #[value(name = "cluster-ip")]
    ClusterIp,
}

/// Heading of what concerns endpoints of Services in the help.
const ENDPOINTS: &str = "Endpoints";

/// Heading of [`LimitArgs`] in the help. Said at each argument: at the struct it would go on to what follows.
const LIMITS: &str = "Limits of the Ingress addresses";

/// Limits of the Ingress addresses. Native listeners have their own.
#[derive(Args, Clone, Debug)]
pub(crate) struct LimitArgs {
    /// Open client connections [default: 16384]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), env = "SLUICEGATE_MAX_CONNECTIONS", help_heading = LIMITS)]
    pub(crate) max_connections: Option<u32>,
    /// Requests on one connection, 0 = no limit [default: 0]
    #[arg(long, value_name = "N", env = "SLUICEGATE_MAX_REQUESTS_PER_CONNECTION", help_heading = LIMITS)]
    pub(crate) max_requests_per_connection: Option<u32>,
    /// Size of a request head [default: 65536]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1_024..=65_536), env = "SLUICEGATE_MAX_HEAD_BYTES", help_heading = LIMITS)]
    pub(crate) max_head_bytes: Option<u32>,
    /// Fields in a request head [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256), env = "SLUICEGATE_MAX_HEAD_FIELDS", help_heading = LIMITS)]
    pub(crate) max_head_fields: Option<u16>,
    /// Length of a request line [default: 8192]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(8_000..=65_536), env = "SLUICEGATE_MAX_REQUEST_LINE_BYTES", help_heading = LIMITS)]
    pub(crate) max_request_line_bytes: Option<u32>,
    /// Time for a whole request head [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, env = "SLUICEGATE_HEADER_TIMEOUT", help_heading = LIMITS)]
    pub(crate) header_timeout: Option<Duration>,
    /// Time that a connection may be without a request [default: 75s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, env = "SLUICEGATE_IDLE_TIMEOUT", help_heading = LIMITS)]
    pub(crate) idle_timeout: Option<Duration>,
    /// Time without a byte of an expected body [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, env = "SLUICEGATE_BODY_IDLE_TIMEOUT", help_heading = LIMITS)]
    pub(crate) body_idle_timeout: Option<Duration>,
    /// Slowest accepted request body in bytes per second, 0 = any [default: 240]
    #[arg(long, value_name = "BYTES", env = "SLUICEGATE_MIN_BODY_RATE", help_heading = LIMITS)]
    pub(crate) min_body_rate: Option<u32>,
    /// Time without a byte in an upgraded connection [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, env = "SLUICEGATE_TUNNEL_IDLE_TIMEOUT", help_heading = LIMITS)]
    pub(crate) tunnel_idle_timeout: Option<Duration>,
    /// Time for a whole TLS handshake [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = positive_duration, env = "SLUICEGATE_HANDSHAKE_TIMEOUT", help_heading = LIMITS)]
    pub(crate) handshake_timeout: Option<Duration>,
    /// Requests at a time on one HTTP/2 connection [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000), env = "SLUICEGATE_MAX_CONCURRENT_STREAMS", help_heading = LIMITS)]
    pub(crate) max_concurrent_streams: Option<u32>,
}

const CHECK_EXAMPLES: &str = "\
Examples:
  sluicegate check examples/quickstart/
  sluicegate check routes.yaml more/ --json | jq '.problems[].message'

Exit status: 0 if there is no error (warnings are allowed), 1 otherwise.";

#[derive(Args, Debug)]
#[command(after_help = CHECK_EXAMPLES)]
pub(crate) struct CheckArgs {
    /// Files and folders, as for `run --config`
    #[arg(value_name = "PATH", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Exit with 1 on warnings as well
    #[arg(long)]
    pub(crate) strict: bool,
    #[command(flatten)]
    pub(crate) ingress: IngressArgs,
}

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  sluicegate explain GET http://shop.example.com/cart --config examples/quickstart/
  sluicegate explain POST http://shop.example.com/api -H 'x-canary: yes' --config routes.yaml --json
  # which certificate, and what is asked of clients
  sluicegate explain GET https://shop.example.com/ --config examples/quickstart/
  # what becomes of a connection to a TCP listener
  sluicegate explain tcp://0.0.0.0:5432 --from 10.1.2.3 --config edge.yaml

Exit status: 0 if a route was found, 1 otherwise.";

#[derive(Args, Debug)]
#[command(after_help = EXPLAIN_EXAMPLES)]
pub(crate) struct ExplainArgs {
    /// Request method; or `tcp://address:port` or `udp://address:port`, for what is relayed as it is
    pub(crate) method: String,
    /// Request URL: `http://host[:port]/path[?query]`, or `https://…`. A port that is given chooses the listener
    pub(crate) url: Option<String>,
    /// Address of the client, for `tcp://` and `udp://`
    #[arg(long, value_name = "IP")]
    pub(crate) from: Option<IpAddr>,
    /// Request header, as 'name: value'
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
    /// Files and folders, as for `run --config`
    #[arg(long, value_name = "PATH", num_args = 1.., required = true, env = "SLUICEGATE_CONFIG")]
    pub(crate) config: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) ingress: IngressArgs,
}

const DEMO_EXAMPLES: &str = "\
Examples:
  sluicegate demo
  sluicegate demo --once

Everything is on free loopback ports and in a temporary folder; Ctrl-C removes it.";

#[derive(Args, Debug)]
#[command(after_help = DEMO_EXAMPLES)]
pub(crate) struct DemoArgs {
    /// Exit when the show is over, with 1 if it did not go as it should
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  sluicegate version\n  sluicegate version --json")]
pub(crate) struct VersionArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum AccessLogFormat {
    Off,
    Json,
    Combined,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_examples() {
        for command in Cli::command().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{}", command.get_name());
        }
    }

    #[test]
    fn either_files_or_a_cluster_are_served() {
        let parse = |args: &str| Cli::try_parse_from(format!("sluicegate run {args}").split_whitespace());
        assert!(parse("").is_err());
        assert!(parse("--kubernetes --config a.yaml").is_err());
        assert!(parse("--config a.yaml --kubeconfig b").is_err());
        assert!(parse("--kubernetes --watch-namespace a,b --watch-namespace-selector c=d").is_err());
        assert!(parse("--kubernetes --watch-namespace A").is_err());
        let Command::Run(args) = parse("--kubernetes --watch-namespace a,b").unwrap().command else {
            panic!()
        };
        assert!(args.cluster.kubernetes && args.config.is_empty());
        assert_eq!(args.cluster.watch_namespace, ["a", "b"]);
    }

    #[test]
    fn published_addresses_are_given_or_those_of_a_service() {
        let parse = |args: &str| {
            let line = format!("sluicegate run --kubernetes {args}");
            match Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command) {
                Ok(Command::Run(args)) => Ok(args.status),
                Ok(_) => unreachable!(),
                Err(error) => Err(error.to_string()),
            }
        };
        let status = parse("--publish-address 192.0.2.1,2001:DB8::1,LB.example").unwrap();
        let shown: Vec<String> = status.publish_address.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["192.0.2.1", "2001:db8::1", "lb.example"]);
        let status = parse("--publish-service edge/lb --update-status=false").unwrap();
        assert_eq!(status.publish_service, Some(ServiceName("edge".to_owned(), "lb".to_owned())));
        assert!(!status.update_status && !status.update_status_on_shutdown);
        assert!(parse("--update-status-on-shutdown").unwrap().update_status_on_shutdown);
        for bad in [
            "--publish-address 192.0.2.1 --publish-service a/b",
            "--publish-address fe80::1%eth0",
            "--publish-address *.example",
            "--publish-service a",
            "--publish-service a/b/c",
            "--election-id A",
            "--election-namespace a.b",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
