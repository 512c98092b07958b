//! Kinds of clusters, and the classes that they come with.

use std::fmt;
use std::str::FromStr;

use crate::model::{Class, DEFAULT_CLASS, Metadata, Text};

/// A kind of cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cluster {
    /// k3s, and k3d on top of it.
    K3s,
    /// kind.
    Kind,
    /// minikube.
    Minikube,
    /// MicroK8s with its add-on hostpath-storage.
    Microk8s,
    /// Docker Desktop.
    DockerDesktop,
    /// Elastic Kubernetes Service of Amazon.
    Eks,
    /// Kubernetes Engine of Google.
    Gke,
    /// Kubernetes Service of Azure.
    Aks,
}

/// A class that a kind of cluster comes with.
#[derive(Debug)]
pub struct Shipped {
    /// Its name.
    pub name: &'static str,
    provisioner: &'static str,
    delayed: bool,
    default: bool,
}

/// A class that is not the default.
const fn shipped(name: &'static str, provisioner: &'static str, delayed: bool) -> Shipped {
    Shipped { name, provisioner, delayed, default: false }
}

/// The class of claims that name none.
const fn default(name: &'static str, provisioner: &'static str, delayed: bool) -> Shipped {
    Shipped { name, provisioner, delayed, default: true }
}

// Sources: k3s `manifests/local-storage.yaml`; kind `pkg/build/nodeimage/const_storage.go`; minikube
// `deploy/addons/storageclass`; microk8s `addons/hostpath-storage`; the documentation of Docker Desktop, EKS, GKE and AKS.
const K3S: &[Shipped] = &[default("local-path", "rancher.io/local-path", true)];
const KIND: &[Shipped] = &[default("standard", "rancher.io/local-path", true)];
const MINIKUBE: &[Shipped] = &[default("standard", "k8s.io/minikube-hostpath", false)];
const MICROK8S: &[Shipped] = &[default("microk8s-hostpath", "microk8s.io/hostpath", true)];
const DOCKER_DESKTOP: &[Shipped] = &[default("hostpath", "docker.io/hostpath", false)];
/// Since 1.30 it is no longer the default.
const EKS: &[Shipped] = &[shipped("gp2", "kubernetes.io/aws-ebs", true)];
const GKE: &[Shipped] = &[
    default("standard-rwo", "pd.csi.storage.gke.io", true),
    shipped("premium-rwo", "pd.csi.storage.gke.io", true),
    shipped("standard", "kubernetes.io/gce-pd", false),
];
const AKS: &[Shipped] = &[
    default("default", "disk.csi.azure.com", true),
    shipped("managed", "disk.csi.azure.com", true),
    shipped("managed-csi", "disk.csi.azure.com", true),
    shipped("managed-csi-premium", "disk.csi.azure.com", true),
    shipped("managed-premium", "disk.csi.azure.com", true),
    shipped("azurefile", "file.csi.azure.com", false),
    shipped("azurefile-csi", "file.csi.azure.com", false),
    shipped("azurefile-csi-premium", "file.csi.azure.com", false),
    shipped("azurefile-premium", "file.csi.azure.com", false),
];

impl Cluster {
    /// Every kind.
    pub const ALL: [Self; 8] =
        [Self::K3s, Self::Kind, Self::Minikube, Self::Microk8s, Self::DockerDesktop, Self::Eks, Self::Gke, Self::Aks];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::K3s => "k3s",
            Self::Kind => "kind",
            Self::Minikube => "minikube",
            Self::Microk8s => "microk8s",
            Self::DockerDesktop => "docker-desktop",
            Self::Eks => "eks",
            Self::Gke => "gke",
            Self::Aks => "aks",
        }
    }

    /// The classes that it comes with.
    #[must_use]
    pub const fn classes(self) -> &'static [Shipped] {
        match self {
            Self::K3s => K3S,
            Self::Kind => KIND,
            Self::Minikube => MINIKUBE,
            Self::Microk8s => MICROK8S,
            Self::DockerDesktop => DOCKER_DESKTOP,
            Self::Eks => EKS,
            Self::Gke => GKE,
            Self::Aks => AKS,
        }
    }

    pub(super) fn class(self, name: &str) -> Option<&'static Shipped> {
        self.classes().iter().find(|class| class.name == name)
    }

    pub(super) fn default_class(self) -> Option<&'static Shipped> {
        self.classes().iter().find(|class| class.default)
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Cluster {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|cluster| cluster.as_str() == text);
        found.ok_or_else(|| format!("expected one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

impl Shipped {
    pub(super) const fn binding_mode(&self) -> &'static str {
        if self.delayed { "WaitForFirstConsumer" } else { "Immediate" }
    }

    pub(super) fn class(&self) -> Class {
        let annotations = self.default.then(|| [(DEFAULT_CLASS[0], Text::from("true"))].into_iter().collect());
        Class {
            metadata: Metadata { name: Some(self.name.into()), annotations, ..Metadata::default() },
            provisioner: self.provisioner.to_owned(),
            volume_binding_mode: Some(self.binding_mode().to_owned()),
            ..Class::default()
        }
    }
}
