//! gRPC clients that call services which this server does not have, or use the older reflection
//! protocol.

use std::net::SocketAddr;

use leftoff::Config;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_reflection::pb::v1alpha::ServerReflectionRequest;
use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1alpha::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1alpha::server_reflection_response::MessageResponse;

use crate::common::{Answer, Server, send_h2c, soon, to};

/// Calls `path` with an empty message, and returns the answer.
async fn call(address: SocketAddr, path: &str) -> Answer {
    let request = to(address, "POST", path).header("content-type", "application/grpc+proto");
    send_h2c(request.header("te", "trailers"), vec![0; 5]).await
}

fn config_with_an_address_for_grpc() -> Config {
    let mut config = Config::default();
    config.server.grpc_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    config
}

/// Goal: a gRPC client gets a gRPC status, whatever it calls, on each address.
#[tokio::test]
async fn a_service_or_a_method_that_there_is_not_is_unimplemented() {
    let (one, two) = (Server::start().await, Server::with(config_with_an_address_for_grpc()).await);
    for address in [one.address, two.address, two.grpc_address] {
        for path in [
            "/some.other.v1.Service/Call",
            "/leftoff.v9.PublisherService/Publish",
            "/leftoff.v1.PublisherService/Dance",
            "/nothing",
            "/",
        ] {
            let answer = call(address, path).await;
            let media = answer.header("content-type");
            assert_eq!((answer.status.as_u16(), media), (200, "application/grpc"), "{path}");
            let trailers = [&answer.headers, &answer.trailers];
            let status = trailers.into_iter().find_map(Status::from_header_map).unwrap();
            assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
            assert!(answer.body.is_empty(), "{path}");
        }
        let other = send_h2c(to(address, "POST", "/nothing"), "").await;
        assert_eq!(other.status, 404, "an HTTP client needs an HTTP status");
        assert_eq!(other.header("content-type"), "application/problem+json");
    }
}

/// Goal: clients that know only the older reflection protocol find the services.
#[tokio::test]
async fn the_former_reflection_tells_of_the_same_services() {
    let server = Server::start().await;
    let channel = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let mut client = ServerReflectionClient::new(channel.connect().await.unwrap());
    let (requests, sent) = tokio::sync::mpsc::channel(2);
    for ask in [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("leftoff.v1.SubscriberService".to_owned()),
    ] {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
        requests.send(request).await.unwrap();
    }
    let answers = client.server_reflection_info(ReceiverStream::new(sent)).await.unwrap();
    let mut answers = answers.into_inner();
    let mut next = async || soon(answers.message()).await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = next().await else { panic!("a list") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["leftoff.v1.PublisherService", "leftoff.v1.SubscriberService"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let Some(MessageResponse::FileDescriptorResponse(files)) = next().await else {
        panic!("files")
    };
    assert!(!files.file_descriptor_proto.is_empty());
}
