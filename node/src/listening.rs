//! Accepting connections so that nobody stops a process by connecting to it.
//!
//! Each port has a bound on its connections, and together they leave the files that the store needs. One more waits in the
//! system's queue. A connection that does not say within some seconds what a gRPC client says first is closed, and so is
//! one that then answers no ping; so connections that say nothing make room again by themselves.

use futures::stream::{Stream, unfold};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpConnectInfo};
use understudy_proto::limits::{
    ADMIN_CONNECTION_MS_MAX, ADMIN_CONNECTIONS_MAX, FIRST_WORDS_MS_MAX, INTERNAL_CONNECTIONS_MAX,
    PUBLIC_CONNECTIONS_MAX,
};

/// A gRPC server as every port of ours has it: connections whose other end is gone are noticed.
pub fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
}

/// How many connections each port may have at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    pub public: usize,
    pub internal: usize,
    pub admin: usize,
}

/// Files that connections never take, beside the store's: the logs', and the connections that this process opens.
const FILES_KEPT: usize = 256;
/// What a port has in any case, however few files the process may open.
const LEAST: usize = 16;

impl Room {
    /// Raises the process's limit of open files as far as it may, and divides it.
    /// `store_files`: those that the store may hold open.
    pub fn of_process(store_files: usize) -> Room {
        let room = Room::within(raise_files_limit().saturating_sub(store_files));
        let wanted = Room::within(usize::MAX);
        if room != wanted {
            let Room {
                public, internal, ..
            } = room;
            tracing::warn!(
                public,
                internal,
                "few files may be open (ulimit -n), so few connections are accepted"
            );
        }
        room
    }

    fn within(files: usize) -> Room {
        let spare = files.saturating_sub(FILES_KEPT);
        let share = |part: usize, most: usize| (spare / 8).saturating_mul(part).clamp(LEAST, most);
        Room {
            public: share(5, PUBLIC_CONNECTIONS_MAX),
            internal: share(2, INTERNAL_CONNECTIONS_MAX),
            admin: share(1, ADMIN_CONNECTIONS_MAX),
        }
    }
}

fn raise_files_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let holds = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    // None is without a limit.
    holds.map_or(usize::MAX, |files| {
        usize::try_from(files).unwrap_or(usize::MAX)
    })
}

/// The connections of a gRPC port, at most `max` at a time.
pub fn connections(
    listener: TcpListener,
    max: usize,
) -> impl Stream<Item = io::Result<Connection>> {
    unfold(Port::grpc(listener, max), |mut port| async move {
        let (connection, _) = port.next().await;
        Some((Ok(connection), port))
    })
}

/// The connections of an HTTP port. HTTP/1 has no ping, so each ends after a while, whatever it says.
pub fn http_connections(
    listener: TcpListener,
    max: usize,
) -> impl axum::serve::Listener<Addr = SocketAddr> {
    Port {
        limit: Duration::from_millis(ADMIN_CONNECTION_MS_MAX),
        missing: usize::MAX,
        ..Port::grpc(listener, max)
    }
}

/// HTTP/2 begins with 24 bytes that are always the same.
const FIRST_WORDS_BYTES: usize = 24;
/// After an accept that failed, most often because no more files may be opened: it would fail again at once.
const PAUSE: Duration = Duration::from_millis(50);

struct Port {
    listener: TcpListener,
    room: Arc<Semaphore>,
    /// Within so long a connection has to say so many bytes.
    limit: Duration,
    missing: usize,
}

impl Port {
    fn grpc(listener: TcpListener, max: usize) -> Port {
        Port {
            listener,
            room: Arc::new(Semaphore::new(max)),
            limit: Duration::from_millis(FIRST_WORDS_MS_MAX),
            missing: FIRST_WORDS_BYTES,
        }
    }

    async fn next(&mut self) -> (Connection, SocketAddr) {
        let permit = self.room.clone().acquire_owned().await;
        let permit = permit.expect("nobody closes the semaphore");
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    let connection = Connection::new(stream, self.missing, self.limit, permit);
                    return (connection, from);
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

impl axum::serve::Listener for Port {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        self.next().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One accepted connection; it counts until it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Until the other end has said enough.
    awaited: Option<Awaited>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Awaited {
    missing: usize,
    limit: Pin<Box<Sleep>>,
}

impl Connection {
    fn new(
        stream: TcpStream,
        missing: usize,
        limit: Duration,
        permit: OwnedSemaphorePermit,
    ) -> Connection {
        // Answers are small and waited for. It fails only on a connection that is gone already.
        let _ = stream.set_nodelay(true);
        Connection {
            stream,
            awaited: Some(Awaited {
                missing,
                limit: Box::pin(sleep(limit)),
            }),
            _permit: permit,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(awaited) = &mut self.awaited
            && awaited.limit.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        self.awaited.take_if(|awaited| {
            awaited.missing = awaited.missing.saturating_sub(read);
            awaited.missing == 0
        });
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use std::pin::pin;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn few_files_leave_few_connections_and_each_port_some() {
        let most = Room {
            public: 4_096,
            internal: 1_024,
            admin: 256,
        };
        assert_eq!(Room::within(usize::MAX), most);
        assert_eq!(Room::within(20_000), most);
        let few = Room::within(1_024 - 512);
        assert_eq!((few.public, few.internal, few.admin), (160, 64, 32));
        let fewest = Room::within(0);
        assert_eq!((fewest.public, fewest.internal, fewest.admin), (16, 16, 16));
    }

    #[tokio::test]
    async fn one_more_waits_until_another_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut accepted = pin!(connections(listener, 1));
        let mut first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        let one = accepted.next().await.unwrap().unwrap();
        let next = tokio::time::timeout(Duration::from_millis(50), accepted.next()).await;
        assert!(next.is_err(), "it waits");
        drop(one);
        assert_eq!(first.read(&mut [0; 1]).await.unwrap(), 0);
        let mut two = accepted.next().await.unwrap().unwrap();
        second.write_all(b"x").await.unwrap();
        assert_eq!(two.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn what_says_nothing_or_too_little_is_closed_and_what_speaks_stays() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limit = Duration::from_millis(200);
        let mut port = Port {
            limit,
            ..Port::grpc(listener, 3)
        };
        let mut clients = Vec::new();
        for said in [0, 23, 24] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(&vec![b'x'; said]).await.unwrap();
            let (mut connection, _) = port.next().await;
            connection.read_exact(&mut vec![0; said]).await.unwrap();
            clients.push((said, client, connection));
        }
        for (said, _client, mut connection) in clients {
            let mut byte = [0; 1];
            let ended = tokio::time::timeout(2 * limit, connection.read(&mut byte)).await;
            match said {
                24 => assert!(ended.is_err(), "it may be silent now"),
                _ => assert_eq!(ended.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut),
            }
        }
    }
}
