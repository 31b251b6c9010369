//! A proxy that cuts connections at random bytes of the broker's answers.

use std::net::SocketAddr;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Starts a proxy to `broker`, and returns its address.
pub(super) async fn start(broker: SocketAddr, seed: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // Most cuts fall among the first frames, where a cursor is told and taken over.
            let budget = match random.random_range(0..10) {
                0 => usize::MAX,
                1..5 => random.random_range(1..2_000),
                _ => random.random_range(1..60_000),
            };
            tokio::spawn(carry(client, broker, budget, random.random_bool(0.5)));
        }
    });
    address
}

/// Carries bytes both ways until one side ends, or `budget` bytes came from the broker.
async fn carry(mut client: TcpStream, broker: SocketAddr, budget: usize, resets: bool) {
    let Ok(mut upstream) = TcpStream::connect(broker).await else { return };
    let (mut asked, mut answered) = (vec![0; 4_096], vec![0; 4_096]);
    let mut left = budget;
    while left > 0 {
        tokio::select! {
            count = client.read(&mut asked) => match count {
                Ok(count) if count > 0 => {
                    if upstream.write_all(&asked[..count]).await.is_err() {
                        break;
                    }
                }
                _ => break,
            },
            count = upstream.read(&mut answered) => match count {
                Ok(count) if count > 0 => {
                    let count = count.min(left);
                    left -= count;
                    if client.write_all(&answered[..count]).await.is_err() {
                        break;
                    }
                }
                _ => break,
            },
        }
    }
    if resets {
        let _it_may_be_gone =
            socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO));
    }
}
