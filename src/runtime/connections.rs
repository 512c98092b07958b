//! Which connections a server has open, and which of them makes room for a new one.
//!
//! A server that turns newcomers away when it is full is one that sixty idle sockets can take from everybody. So the
//! longest idle connection is closed for the new one, and first one of an address that has more than its share.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The connections of one server. Cloning gives another handle to the same ones.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    /// Connections that are open at one time.
    most: usize,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: HashMap<u64, Entry>,
    by_peer: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Entry {
    peer: IpAddr,
    /// A request is being received or answered.
    busy: bool,
    /// Since when it is busy or idle.
    since: Instant,
    close: CancellationToken,
}

/// One open connection; it counts as closed when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    connections: Connections,
    number: u64,
    /// Cancelled when the connection is to make room for another.
    pub close: CancellationToken,
}

/// What admitting a new connection took.
#[derive(Debug)]
pub(super) struct Admitted {
    pub place: Place,
    /// Another connection is closed for it.
    pub evicted: bool,
}

impl Connections {
    pub fn new(most: usize) -> Self {
        Self { most, table: Arc::default() }
    }

    /// Takes a place for a new connection; none when all are busy and nobody has more than a share of them.
    pub fn admit(&self, peer: SocketAddr) -> Option<Admitted> {
        // A v4 client of a v6 listener is the same client.
        let peer = peer.ip().to_canonical();
        let mut table = self.lock();
        let evicted = table.open.len() >= self.most;
        if evicted {
            let number = table.victim(self.most, peer)?;
            table.remove(number)?.close.cancel();
        }
        let (number, close) = (table.next, CancellationToken::new());
        table.next += 1;
        table.open.insert(number, Entry { peer, busy: false, since: Instant::now(), close: close.clone() });
        *table.by_peer.entry(peer).or_default() += 1;
        drop(table);
        Some(Admitted { place: Place { connections: self.clone(), number, close }, evicted })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // No code that holds the lock can leave the table half-written.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The connection to be closed for a new one of the peer.
    ///
    /// A share is what each address would have if all had the same, the newcomer's among them. Who has more closes one
    /// of his own. Otherwise the longest idle connection goes: of those who have more than a share if there is one,
    /// else of anybody; and if nobody is idle, the longest busy one of those who have more than a share, so that bodies
    /// that drip hold nobody out. It looks at every connection once, which is a few microseconds for 512.
    fn victim(&self, most: usize, peer: IpAddr) -> Option<u64> {
        let peers = self.by_peer.len() + usize::from(!self.by_peer.contains_key(&peer));
        let share = (most / peers.max(1)).max(1);
        let held = |peer: &IpAddr| self.by_peer.get(peer).copied().unwrap_or_default();
        let newcomer_has_more = held(&peer) >= share && peers > 1;
        let rank = |(number, entry): (&u64, &Entry)| {
            let has_more = held(&entry.peer) > share;
            let rank = match (entry.busy, has_more) {
                _ if newcomer_has_more && entry.peer != peer => return None,
                (false, true) => 0,
                (false, false) => 1,
                (true, true) if !newcomer_has_more && entry.peer != peer => 2,
                (true, _) => return None,
            };
            Some(((rank, entry.since), *number))
        };
        self.open.iter().filter_map(rank).min().map(|(_, number)| number)
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.open.remove(&number)?;
        if let Some(held) = self.by_peer.get_mut(&entry.peer) {
            *held -= 1;
            if *held == 0 {
                self.by_peer.remove(&entry.peer);
            }
        }
        Some(entry)
    }
}

impl Place {
    /// A request has begun: from its headers until its answer.
    pub fn busy(&self) {
        self.set(true);
    }

    /// The answer is there. A client that does not take it is idle.
    pub fn idle(&self) {
        self.set(false);
    }

    fn set(&self, busy: bool) {
        if let Some(entry) = self.connections.lock().open.get_mut(&self.number) {
            (entry.busy, entry.since) = (busy, Instant::now());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::Duration;

    use super::{Admitted, Connections, Place};

    fn from(last: u8) -> SocketAddr {
        (Ipv4Addr::new(10, 0, 0, last), 4000).into()
    }

    /// Connections of one address, a second apart.
    async fn open(connections: &Connections, peer: u8, count: usize) -> Vec<Place> {
        let mut places = Vec::new();
        for _ in 0..count {
            tokio::time::advance(Duration::from_secs(1)).await;
            places.push(connections.admit(from(peer)).unwrap().place);
        }
        places
    }

    fn closed(places: &[Place]) -> Vec<usize> {
        let closed = places.iter().enumerate().filter(|(_, place)| place.close.is_cancelled());
        closed.map(|(number, _)| number).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_server_closes_the_longest_idle_connection_for_a_new_one() {
        let connections = Connections::new(4);
        let places = open(&connections, 1, 4).await;
        assert!(closed(&places).is_empty());
        tokio::time::advance(Duration::from_secs(1)).await;
        places[0].busy();
        places[1].busy();
        places[1].idle();
        let Admitted { place, evicted } = connections.admit(from(1)).unwrap();
        assert_eq!((evicted, closed(&places)), (true, vec![2]), "0 is busy, and 1 has just been used");
        drop((place, places));
        assert!(connections.lock().open.is_empty() && connections.lock().by_peer.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_more_than_a_share_loses_one_first() {
        let connections = Connections::new(8);
        let quiet = open(&connections, 1, 2).await;
        let greedy = open(&connections, 2, 6).await;
        let newcomers = open(&connections, 3, 2).await;
        assert_eq!(
            (closed(&quiet), closed(&greedy)),
            (vec![], vec![0, 1]),
            "though the quiet ones are idle for longer"
        );
        let more = open(&connections, 2, 2).await;
        assert_eq!((closed(&quiet), closed(&greedy)), (vec![], vec![0, 1, 2, 3]), "only one of his own");
        assert!(closed(&newcomers).is_empty() && closed(&more).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_drip_hold_nobody_else_out() {
        let connections = Connections::new(4);
        let dripping = open(&connections, 1, 4).await;
        dripping.iter().for_each(Place::busy);
        assert!(connections.admit(from(1)).is_none(), "all of one address are busy");
        let first = connections.admit(from(2)).unwrap().place;
        assert_eq!(closed(&dripping), [0]);
        first.busy();
        let second = connections.admit(from(2)).unwrap().place;
        assert_eq!(closed(&dripping), [0, 1]);
        // With equal shares nothing that is under way is cut off.
        let _third = connections.admit(from(2)).unwrap();
        assert_eq!((closed(&dripping), second.close.is_cancelled()), (vec![0, 1], true), "the one that is idle");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_full_of_work_turns_newcomers_away() {
        let connections = Connections::new(2);
        let mut places = open(&connections, 1, 1).await;
        places.extend(open(&connections, 2, 1).await);
        places.iter().for_each(Place::busy);
        assert!(connections.admit(from(3)).is_none());
        places[0].idle();
        assert!(connections.admit(from(3)).is_some());
    }
}
