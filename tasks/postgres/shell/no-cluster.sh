install -d /etc/postgresql-common/createcluster.d
printf '# Datatier creates the cluster itself.\ncreate_main_cluster = false\n' \
  >/etc/postgresql-common/createcluster.d/datatier.conf
