//! The labels of this node, by which MetalLB's advertisements choose nodes: read from the API server, and followed. Only
//! while somebody asks for them; never judges them.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::cluster::{self, ClusterError};

/// A watch ends after so many seconds and the Node is read again, also if the server forgot us.
const WATCH: u32 = 60;
/// A request takes no longer; for a watch, besides its own time.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between requests, at least; it doubles up to the other while they fail.
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(15);

/// Tells the labels of the Node called `node`, and whenever they change, from when `is_asked` is true: `None` if there is no
/// such Node. What was told last stands while the API server is away. Does not return but with an error, or when nobody
/// can ask any more.
///
/// # Errors
/// If there is no usable configuration of an API server.
pub async fn follow_labels(
    kubeconfig: Option<&Path>,
    node: Arc<str>,
    mut is_asked: watch::Receiver<bool>,
    mut tell: impl FnMut(Option<BTreeMap<String, String>>),
) -> Result<(), ClusterError> {
    if is_asked.wait_for(|is_asked| *is_asked).await.is_err() {
        return Ok(());
    }
    let config = cluster::configuration(kubeconfig).await?;
    let api = Api::<Node>::all(cluster::client(&config)?);
    let (mut pause, mut is_failing) = (PAUSE, false);
    while is_asked.wait_for(|is_asked| *is_asked).await.is_ok() {
        match list_and_watch(&api, &node, &mut tell).await {
            Ok(()) => (pause, is_failing) = (PAUSE, false),
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(
                        %error,
                        node = &*node,
                        "the labels of this node cannot be read, so what advertisements choose by labels stays as it \
                         was, at first not announced here; trying again"
                    );
                }
                pause = (pause * 2).min(MAX_PAUSE);
            }
        }
        sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
    }
    Ok(())
}

/// Lists, and then watches for a while.
async fn list_and_watch(
    api: &Api<Node>,
    node: &str,
    tell: &mut impl FnMut(Option<BTreeMap<String, String>>),
) -> Result<(), String> {
    let text = |error: kube::Error| error.to_string();
    let silent = |_| "no answer in time".to_owned();
    let field = format!("metadata.name={node}");
    let params = ListParams::default().fields(&field);
    let list = timeout(TIMEOUT, api.list_metadata(&params)).await.map_err(silent)?.map_err(text)?;
    let version = list.metadata.resource_version.unwrap_or_default();
    let found = list.items.into_iter().find(|one| one.metadata.name.as_deref() == Some(node));
    tell(found.map(|one| one.metadata.labels.unwrap_or_default()));
    let params = WatchParams::default().fields(&field).timeout(WATCH);
    let stream = timeout(TIMEOUT, api.watch_metadata(&params, &version)).await;
    let stream = stream.map_err(silent)?.map_err(text)?;
    let whole = TIMEOUT + Duration::from_secs(u64::from(WATCH));
    let followed = async {
        let mut stream = pin!(stream);
        while let Some(Ok(event)) = stream.next().await {
            match event {
                WatchEvent::Added(one) | WatchEvent::Modified(one) => {
                    tell(Some(one.metadata.labels.unwrap_or_default()));
                }
                WatchEvent::Deleted(_) => tell(None),
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(_) => return,
            }
        }
    };
    // However it ends, the list says what was missed.
    let _ = timeout(whole, followed).await;
    Ok(())
}
