// A volume populator: a claim whose data source is a Hello gets a volume with the file that the Hello describes.
//
// The spec "any volume data source" of Kubernetes' storage suite deploys an image of the name hello-populator and takes
// it for granted that claims are filled. This is the program in that image. It goes by Kubernetes' proposal 1495, as every
// populator does: another claim of the same class, in the populator's namespace, gets the volume; a Pod fills it; then the
// volume's claimRef is moved to the claim that asked.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	group        = "hello.example.com"
	kind         = "Hello"
	finalizer    = group + "/populate-target-protection"
	selectedNode = "volume.kubernetes.io/selected-node"
	mount        = "/mnt/volume"
	turn         = time.Second
	// One claim's calls of one turn.
	patience = 30 * time.Second
)

var hellos = schema.GroupVersionResource{Group: group, Version: "v1alpha1", Resource: "hellos"}

func main() {
	mode := flag.String("mode", "", "controller, or populate: what the Pod does that fills a volume")
	image := flag.String("image-name", "", "image of that Pod")
	namespace := flag.String("namespace", "hello", "where claims and Pods are made that are nobody else's business")
	// The suite gives it; there is nothing to be read there.
	flag.String("http-endpoint", "", "not served")
	name := flag.String("file-name", "", "name of the file to write")
	contents := flag.String("file-contents", "", "what to write")
	flag.Parse()
	var err error
	switch *mode {
	case "controller":
		err = control(*namespace, *image)
	case "populate":
		err = os.WriteFile(filepath.Join(mount, filepath.Base(*name)), []byte(*contents), 0o644)
	default:
		err = errors.New("--mode is controller or populate")
	}
	if err != nil {
		log.Fatal(err)
	}
}

type populator struct {
	kubernetes.Interface
	dynamic          dynamic.Interface
	namespace, image string
}

func control(namespace, image string) error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	others, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	it := &populator{client, others, namespace, image}
	for ; ; time.Sleep(turn) {
		claims, err := client.CoreV1().PersistentVolumeClaims("").List(context.Background(), meta.ListOptions{})
		if err != nil {
			log.Print("listing claims: ", err)
			continue
		}
		for _, claim := range claims.Items {
			source := claim.Spec.DataSourceRef
			if source == nil || source.Kind != kind || source.APIGroup == nil || *source.APIGroup != group {
				continue
			}
			// Claims that were made here repeat no data source, so none of them comes this far.
			if err := it.reconcile(&claim); err != nil {
				log.Printf("claim %s/%s: %v", claim.Namespace, claim.Name, err)
			}
		}
	}
}

func (it *populator) reconcile(claim *core.PersistentVolumeClaim) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	begun := slices.Contains(claim.Finalizers, finalizer)
	if claim.DeletionTimestamp != nil {
		if begun {
			return it.cleanUp(ctx, claim)
		}
		return nil
	}
	if claim.Spec.VolumeName != "" && !begun {
		return nil
	}
	node, ready, err := it.node(ctx, claim)
	if err != nil || !ready {
		return err
	}
	hello, err := it.dynamic.Resource(hellos).Namespace(claim.Namespace).Get(ctx, claim.Spec.DataSourceRef.Name, meta.GetOptions{})
	if err != nil {
		return err
	}
	if !begun {
		return it.setFinalizers(ctx, claim, append(slices.Clone(claim.Finalizers), finalizer))
	}
	own, err := it.ownClaim(ctx, claim, node)
	if err != nil {
		return err
	}
	if own.Status.Phase == core.ClaimLost {
		// Its volume is that of the claim that asked.
		return it.cleanUp(ctx, claim)
	}
	filled, err := it.filled(ctx, claim, hello, node)
	if err != nil || !filled {
		return err
	}
	return it.handOver(ctx, claim, own)
}

// The node that the scheduler chose, if the class waits for it to choose.
func (it *populator) node(ctx context.Context, claim *core.PersistentVolumeClaim) (string, bool, error) {
	if claim.Spec.StorageClassName == nil {
		return "", false, nil
	}
	class, err := it.StorageV1().StorageClasses().Get(ctx, *claim.Spec.StorageClassName, meta.GetOptions{})
	if err != nil {
		return "", false, err
	}
	if class.VolumeBindingMode == nil || *class.VolumeBindingMode != storage.VolumeBindingWaitForFirstConsumer {
		return "", true, nil
	}
	node := claim.Annotations[selectedNode]
	return node, node != "", nil
}

// The claim that the volume is made for.
func (it *populator) ownClaim(ctx context.Context, claim *core.PersistentVolumeClaim, node string) (*core.PersistentVolumeClaim, error) {
	claims := it.CoreV1().PersistentVolumeClaims(it.namespace)
	name := "prime-" + string(claim.UID)
	own, err := claims.Get(ctx, name, meta.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return own, err
	}
	own = &core.PersistentVolumeClaim{
		ObjectMeta: meta.ObjectMeta{Name: name},
		Spec: core.PersistentVolumeClaimSpec{
			AccessModes:      claim.Spec.AccessModes,
			Resources:        claim.Spec.Resources,
			StorageClassName: claim.Spec.StorageClassName,
			VolumeMode:       claim.Spec.VolumeMode,
		},
	}
	if node != "" {
		own.Annotations = map[string]string{selectedNode: node}
	}
	return claims.Create(ctx, own, meta.CreateOptions{})
}

// Whether the Pod has filled the volume. It is made first if there is none.
func (it *populator) filled(ctx context.Context, claim *core.PersistentVolumeClaim, hello *unstructured.Unstructured, node string) (bool, error) {
	pods := it.CoreV1().Pods(it.namespace)
	name := "populate-" + string(claim.UID)
	pod, err := pods.Get(ctx, name, meta.GetOptions{})
	switch {
	case err == nil && pod.Status.Phase == core.PodFailed:
		// It is made anew in the next turn.
		return false, pods.Delete(ctx, name, meta.DeleteOptions{})
	case err == nil:
		return pod.Status.Phase == core.PodSucceeded, nil
	case !apierrors.IsNotFound(err):
		return false, err
	}
	text := func(field string) (string, error) {
		value, found, err := unstructured.NestedString(hello.Object, "spec", field)
		if err == nil && !found {
			err = fmt.Errorf("Hello %s has no spec.%s", hello.GetName(), field)
		}
		return value, err
	}
	file, nameError := text("fileName")
	contents, contentsError := text("fileContents")
	if err := errors.Join(nameError, contentsError); err != nil {
		return false, err
	}
	source := &core.PersistentVolumeClaimVolumeSource{ClaimName: "prime-" + string(claim.UID)}
	pod = &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: name},
		Spec: core.PodSpec{
			// Populators name the node, with the scheduler's choice in hand.
			NodeName:      node,
			RestartPolicy: core.RestartPolicyNever,
			Containers: []core.Container{{
				Name:            "populate",
				Image:           it.image,
				ImagePullPolicy: core.PullIfNotPresent,
				Args:            []string{"--mode=populate", "--file-name=" + file, "--file-contents=" + contents},
				VolumeMounts:    []core.VolumeMount{{Name: "volume", MountPath: mount}},
			}},
			Volumes: []core.Volume{{Name: "volume", VolumeSource: core.VolumeSource{PersistentVolumeClaim: source}}},
		},
	}
	_, err = pods.Create(ctx, pod, meta.CreateOptions{})
	return false, err
}

// Has the volume belong to the claim that asked. The volume controller binds them, and calls our claim Lost.
func (it *populator) handOver(ctx context.Context, claim, own *core.PersistentVolumeClaim) error {
	if own.Spec.VolumeName == "" {
		return nil
	}
	volumes := it.CoreV1().PersistentVolumes()
	volume, err := volumes.Get(ctx, own.Spec.VolumeName, meta.GetOptions{})
	if err != nil {
		return err
	}
	if volume.Spec.ClaimRef != nil && volume.Spec.ClaimRef.UID == claim.UID {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{
			"resourceVersion": volume.ResourceVersion,
			"annotations":     map[string]string{group + "/populated-from": claim.Namespace + "/" + claim.Spec.DataSourceRef.Name},
		},
		"spec": map[string]any{"claimRef": map[string]any{
			"namespace": claim.Namespace, "name": claim.Name, "uid": claim.UID, "resourceVersion": claim.ResourceVersion,
		}},
	})
	if err != nil {
		return err
	}
	_, err = volumes.Patch(ctx, volume.Name, types.MergePatchType, patch, meta.PatchOptions{})
	return err
}

// Removes what was made here, and lets the claim go.
func (it *populator) cleanUp(ctx context.Context, claim *core.PersistentVolumeClaim) error {
	pod := it.CoreV1().Pods(it.namespace).Delete(ctx, "populate-"+string(claim.UID), meta.DeleteOptions{})
	if pod != nil && !apierrors.IsNotFound(pod) {
		return pod
	}
	own := it.CoreV1().PersistentVolumeClaims(it.namespace).Delete(ctx, "prime-"+string(claim.UID), meta.DeleteOptions{})
	if own != nil && !apierrors.IsNotFound(own) {
		return own
	}
	without := slices.DeleteFunc(slices.Clone(claim.Finalizers), func(name string) bool { return name == finalizer })
	return it.setFinalizers(ctx, claim, without)
}

func (it *populator) setFinalizers(ctx context.Context, claim *core.PersistentVolumeClaim, finalizers []string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"resourceVersion": claim.ResourceVersion, "finalizers": finalizers,
	}})
	if err != nil {
		return err
	}
	claims := it.CoreV1().PersistentVolumeClaims(claim.Namespace)
	_, err = claims.Patch(ctx, claim.Name, types.MergePatchType, patch, meta.PatchOptions{})
	return err
}
