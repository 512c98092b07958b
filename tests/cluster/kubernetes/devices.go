package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/dynamic-resource-allocation/resourceslice"
)

// A driver of devices (dynamic resource allocation) for tests. It publishes two for its node, which are nothing but names, and
// agrees to prepare for a Pod whichever of them the scheduler has allocated.
type deviceDriver struct{}

func newDeviceDriverCommand() *cobra.Command {
	var kubeconfig, node, driver string
	command := &cobra.Command{
		Use: "device-driver",
		RunE: func(*cobra.Command, []string) error {
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
			defer stop()
			return serveDevices(ctx, kubeconfig, node, driver)
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "as whom to talk to the API server")
	command.Flags().StringVar(&node, "node-name", "", "the node whose devices they are")
	command.Flags().StringVar(&driver, "driver-name", "devices.latebind.test", "the name of the driver")
	return command
}

func serveDevices(ctx context.Context, kubeconfig, node, driver string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(kubeletplugin.KubeletPluginsDir+"/"+driver, 0o750); err != nil {
		return err
	}
	plugin, err := kubeletplugin.Start(ctx, deviceDriver{},
		kubeletplugin.DriverName(driver), kubeletplugin.NodeName(node), kubeletplugin.KubeClient(client))
	if err != nil {
		return err
	}
	defer plugin.Stop()
	devices := []resource.Device{{Name: "first"}, {Name: "second"}}
	err = plugin.PublishResources(ctx, resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{
		node: {Slices: []resourceslice.Slice{{Devices: devices}}},
	}})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func (deviceDriver) PrepareResourceClaims(
	_ context.Context, claims []*resource.ResourceClaim,
) (map[types.UID]kubeletplugin.PrepareResult, error) {
	prepared := map[types.UID]kubeletplugin.PrepareResult{}
	for _, claim := range claims {
		var result kubeletplugin.PrepareResult
		for _, allocated := range claim.Status.Allocation.Devices.Results {
			result.Devices = append(result.Devices, kubeletplugin.Device{
				Requests:   []string{allocated.Request},
				PoolName:   allocated.Pool,
				DeviceName: allocated.Device,
			})
		}
		prepared[claim.UID] = result
	}
	return prepared, nil
}

func (deviceDriver) UnprepareResourceClaims(
	_ context.Context, claims []kubeletplugin.NamespacedObject,
) (map[types.UID]error, error) {
	released := map[types.UID]error{}
	for _, claim := range claims {
		released[claim.UID] = nil
	}
	return released, nil
}

func (deviceDriver) HandleError(_ context.Context, err error, message string) {
	fmt.Fprintln(os.Stderr, message, err)
}
