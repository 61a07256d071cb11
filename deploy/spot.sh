#!/bin/sh
# Waits until the cloud says that it will take this spot machine away, and tells Ray: no new work comes here, and
# workers close what they have open. AWS says so two minutes before, Google Cloud 30 s.
#
#     spot.sh aws|gcp HEAD:PORT
set -eu

aws=http://169.254.169.254/latest
gcp=http://metadata.google.internal/computeMetadata/v1/instance

is_warned() {
    case $1 in
    aws) # 404 until then
        token=$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$aws/api/token") &&
            curl -sf -H "X-aws-ec2-metadata-token: $token" "$aws/meta-data/spot/instance-action"
        ;;
    gcp) [ "$(curl -sf -H 'Metadata-Flavor: Google' "$gcp/preempted")" = TRUE ] ;;
    esac
}

case $1 in
aws) left_s=110 ;;
gcp) left_s=25 ;;
*) echo "spot.sh: no such cloud: $1; it knows aws and gcp" >&2; exit 2 ;;
esac
until is_warned "$1"; do sleep 2; done
ray drain-node --address="$2" --reason=DRAIN_NODE_REASON_PREEMPTION \
    --reason-message="the cloud takes this spot machine" --deadline-remaining-seconds=$left_s
