//go:build devicehealth

package main

import (
	"context"

	"k8s.io/dynamic-resource-allocation/kubeletplugin"
)

// Since 1.37 a driver says how its devices are, or that it does not.
func (deviceDriver) WatchHealthStatus(context.Context, chan<- kubeletplugin.DeviceHealthReport) error {
	return kubeletplugin.ErrHealthNotSupported
}
