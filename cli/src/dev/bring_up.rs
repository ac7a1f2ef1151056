//! From a directory to a cluster that serves: drives, nodes one after the other, volumes, exports.
use super::fleet::{Fleet, to_create};
use super::ports;
use super::show::Show;
use crate::cluster::{Cluster, Health};
use crate::failure::{During, Failure, Outcome};
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// How long one node may take until its API answers.
const NODE_UP_MAX: Duration = Duration::from_secs(30);
/// How long all drives may take to register in a new cluster.
const DRIVES_UP_MAX: Duration = Duration::from_secs(30);
/// How long a resumed cluster may take until its volumes can be read and written; `settle` (R27) is within it.
const SERVE_MAX: Duration = Duration::from_secs(60);
/// How long an export may take until it takes connections.
const EXPORT_UP_MAX: Duration = Duration::from_secs(30);
/// How long the ports of processes that just died may stay taken.
const PORTS_FREE_MAX: Duration = Duration::from_secs(10);
/// How long a question that may go unanswered may take.
const QUICK: Duration = Duration::from_millis(1500);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Brings everything up.
pub async fn bring_up(fleet: &mut Fleet) -> Outcome {
    if fleet.settings().ports.is_empty() {
        let ports = ports::choose(fleet.settings().nodes)?;
        fleet.change_settings(|settings| settings.ports = ports)?;
    }
    fleet.make_drives()?;
    wait_for_ports(fleet).await?;
    let (nodes, joined) = (fleet.settings().nodes as usize, fleet.settings().joined as usize);
    for at in 0..joined {
        fleet.start(at)?;
    }
    if joined == nodes {
        resume(fleet).await?;
    } else {
        // One after the other, so that nodes get their ids in order.
        for at in 0..nodes {
            if at >= joined {
                fleet.start(at)?;
            }
            wait_for_node(fleet, at).await?;
            wait_until_member(fleet, at).await?;
            let joined = fleet.settings().joined.max(at as u32 + 1);
            fleet.change_settings(|settings| settings.joined = joined)?;
        }
        wait_for_drives(fleet).await?;
    }
    let cluster = Cluster::dev(fleet.api());
    for volume in to_create(fleet.settings()) {
        cluster.create_volume(&volume.name, volume.size).await?;
        fleet.change_settings(|settings| {
            settings.volumes.iter_mut().filter(|v| v.name == volume.name).for_each(|v| v.is_created = true);
        })?;
    }
    wait_to_serve(fleet, &cluster).await?;
    export(fleet, &cluster).await
}

/// A process that was killed keeps its ports until the kernel has taken it apart.
async fn wait_for_ports(fleet: &Fleet) -> Outcome {
    let until = Instant::now() + PORTS_FREE_MAX;
    for port in fleet.settings().ports.iter().flat_map(|p| [p.data, p.api]) {
        while let Err(why) = TcpListener::bind(("127.0.0.1", port)) {
            if Instant::now() >= until {
                return Err(Failure::new(format!("port {port} of 127.0.0.1 is taken: {why}"))
                    .hint("the cluster's nodes listen where they listened before: end what took the port"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}

/// Waits until node number `at` answers; a failure when its process ends.
pub async fn wait_for_node(fleet: &mut Fleet, at: usize) -> Outcome {
    let own = Cluster::dev(vec![fleet.api()[at].clone()]);
    let until = Instant::now() + NODE_UP_MAX;
    loop {
        if tokio::time::timeout(QUICK, own.is_answering()).await.unwrap_or(false) {
            return Ok(());
        }
        if !fleet.runs(at) || Instant::now() >= until {
            return Err(fleet.failure(at));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until the cluster lists node number `at`, and learns its id.
async fn wait_until_member(fleet: &mut Fleet, at: usize) -> Outcome {
    let cluster = Cluster::dev(fleet.api());
    let address = format!("127.0.0.1:{}", fleet.settings().ports[at].api);
    let until = Instant::now() + NODE_UP_MAX;
    loop {
        if let Ok(Ok(nodes)) = tokio::time::timeout(QUICK, cluster.nodes()).await
            && let Some(node) = nodes.iter().find(|n| n.api.ends_with(&address))
        {
            fleet.name(at, node.id);
            return Ok(());
        }
        if !fleet.runs(at) || Instant::now() >= until {
            return Err(fleet.failure(at));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until a majority answers and tells the nodes' ids. Nodes that do not come up are said, and left.
async fn resume(fleet: &mut Fleet) -> Outcome {
    let nodes = fleet.settings().nodes as usize;
    let mut answering = 0;
    for at in 0..nodes {
        match wait_for_node(fleet, at).await {
            Ok(()) => answering += 1,
            Err(why) => eprintln!("warning: {why}"),
        }
    }
    if answering * 2 <= nodes {
        return Err(Failure::new(format!(
            "only {answering} of {nodes} nodes came up: too few to decide anything"
        ))
        .hint("the warnings above say why; each node has a log beside its directory"));
    }
    for at in 0..nodes {
        if fleet.runs(at) {
            wait_until_member(fleet, at).await?;
        }
    }
    Ok(())
}

async fn wait_for_drives(fleet: &mut Fleet) -> Outcome {
    let cluster = Cluster::dev(fleet.api());
    let all = (fleet.settings().nodes * fleet.settings().drives) as usize;
    let until = Instant::now() + DRIVES_UP_MAX;
    loop {
        let up = match tokio::time::timeout(QUICK, cluster.drives()).await {
            Ok(Ok(drives)) => drives.iter().filter(|d| d.is_up).count(),
            _ => 0,
        };
        if up == all {
            return Ok(());
        }
        for at in 0..fleet.settings().nodes as usize {
            if !fleet.runs(at) {
                return Err(fleet.failure(at));
            }
        }
        if Instant::now() >= until {
            return Err(Failure::new(format!(
                "{up} of {all} drives are up after {} s",
                DRIVES_UP_MAX.as_secs()
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn wait_to_serve(fleet: &mut Fleet, cluster: &Cluster) -> Outcome {
    // A new cluster is waited for until it is whole, a resumed one until it serves: it may have lost something for good.
    let until = Instant::now() + SERVE_MAX;
    let mut said = Instant::now();
    loop {
        let status = match tokio::time::timeout(QUICK, cluster.status()).await {
            Ok(Ok(status)) => status,
            _ if Instant::now() < until => {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            _ => return Err(Failure::new("no node tells how the cluster is")),
        };
        match status.health {
            Health::Ok => return Ok(()),
            _ if Instant::now() >= until => {
                eprintln!("warning: the cluster is {}: {}", status.health, status.reasons.join("; "));
                return Ok(());
            }
            // What is missing will not come: its process ended.
            Health::Degraded if (0..fleet.settings().nodes as usize).any(|at| !fleet.runs(at)) => {
                eprintln!("warning: the cluster is degraded: {}", status.reasons.join("; "));
                return Ok(());
            }
            _ => {}
        }
        if said.elapsed() > Duration::from_secs(3) {
            said = Instant::now();
            eprintln!("waiting: {}: {}", status.health, status.reasons.join("; "));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn export(fleet: &mut Fleet, cluster: &Cluster) -> Outcome {
    let volumes = cluster.volumes().await?;
    for asked in fleet.settings().volumes.clone() {
        match volumes.iter().find(|v| v.name == asked.name) {
            Some(volume) => fleet.export(&volume.name, volume.size)?,
            None => eprintln!("warning: volume {} was deleted, and is not exported", asked.name),
        }
    }
    let until = Instant::now() + EXPORT_UP_MAX;
    while !fleet.exports_are_up()? {
        if Instant::now() >= until {
            return Err(Failure::new("an export takes no connections")).during("export the volumes");
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Where everything is, with the sizes the volumes have now, if somebody tells quickly.
pub async fn learn_sizes(fleet: &mut Fleet) -> Outcome<Show> {
    let cluster = Cluster::dev(fleet.api());
    if let Ok(Ok(volumes)) = tokio::time::timeout(QUICK, cluster.volumes()).await {
        for volume in volumes {
            fleet.resized(&volume.name, volume.size);
        }
    }
    Ok(fleet.show())
}
