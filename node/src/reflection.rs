//! What lets tools talk to a server without our files: gRPC reflection, v1 and v1alpha, and the standard health service.
//!
//! Python's reflection package speaks only v1alpha, grpcurl prefers v1, so both are served. `google.rpc.ErrorInfo` is
//! part of what reflection knows, so that tools can show our errors' details.

use tonic::service::RoutesBuilder;
use tonic_health::server::HealthReporter;
use tonic_reflection::server::Builder;
use tonic_types::pb;

/// The reflection services, to be added to a server's routes. `Err` only when our own descriptors are damaged.
pub fn reflection_services() -> Result<Vec<Registered>, String> {
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(understudy_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = builder().build_v1().map_err(|error| error.to_string())?;
    let v1alpha = builder()
        .build_v1alpha()
        .map_err(|error| error.to_string())?;
    Ok(vec![
        Box::new(move |routes: &mut RoutesBuilder| {
            routes.add_service(v1);
        }),
        Box::new(move |routes: &mut RoutesBuilder| {
            routes.add_service(v1alpha);
        }),
    ])
}

/// Adds one service to the routes.
pub type Registered = Box<dyn FnOnce(&mut RoutesBuilder) + Send>;

/// Adds reflection and `grpc.health.v1` to a public server, and gives what reports the health: the empty name stands for
/// the whole process and begins as NOT_SERVING.
///
/// ```ignore
/// let mut routes = RoutesBuilder::default();
/// routes.add_service(ObjectsServer::new(objects));
/// let health = add_standard_services(&mut routes)?;
/// health.set_service_status("", ServingStatus::Serving).await;
/// Server::builder().add_routes(routes.routes()).serve_with_incoming_shutdown(incoming, stop).await
/// ```
pub async fn add_standard_services(routes: &mut RoutesBuilder) -> Result<HealthReporter, String> {
    for register in reflection_services()? {
        register(routes);
    }
    let (health, service) = tonic_health::server::health_reporter();
    health
        .set_service_status("", tonic_health::ServingStatus::NotServing)
        .await;
    routes.add_service(service);
    Ok(health)
}
