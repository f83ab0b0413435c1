"""The rows of deployments."""

from .deployments import Command, Deployment, DeploymentEvent, Observation, StepRun
from .instances import Instance
from .services import DeploymentStage, LineStop, PipelineStep, Release, Service, ServiceState

__all__ = [
    "Command",
    "Deployment",
    "DeploymentEvent",
    "DeploymentStage",
    "Instance",
    "LineStop",
    "Observation",
    "PipelineStep",
    "Release",
    "Service",
    "ServiceState",
    "StepRun",
]
