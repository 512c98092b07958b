// Each release of Kubernetes has a module file of its own below, which `-modfile` names: this one only says where the package is.
module latebind.dev/tests/kubernetes

go 1.26.0
