-- Everything that a database can have and a restore has to bring back, for psql as the superuser.
-- Names contain quotes, line breaks, semicolons and what looks like pg_dump's own comments. What
-- an owner has here includes what that role could not make today.
SET session_replication_role = replica;
SET search_path = public;
CREATE EXTENSION pg_trgm;
CREATE EXTENSION hstore;
CREATE EXTENSION postgres_fdw;
CREATE EXTENSION btree_gist;
CREATE SCHEMA ext;
GRANT USAGE ON SCHEMA ext TO psscript, "we""ird 'r";
CREATE EXTENSION fuzzystrmatch;
CREATE EXTENSION citext SCHEMA ext;
COMMENT ON EXTENSION hstore IS 'changed comment';
GRANT EXECUTE ON FUNCTION similarity(text, text) TO psscript;
REVOKE EXECUTE ON FUNCTION show_trgm(text) FROM PUBLIC;
CREATE SCHEMA app AUTHORIZATION psscript;
COMMENT ON SCHEMA app IS 'schema';
CREATE SCHEMA "we""ird 's" AUTHORIZATION "we""ird 'r";
GRANT USAGE ON SCHEMA app TO other WITH GRANT OPTION;
SET ROLE psscript;
CREATE TABLE app."we ird""n'a$$me
x\y ü;--" ("c;o""l'1
" int PRIMARY KEY, "ü$$" text DEFAULT $a$it's \ $$ ; $a$, "Type: TABLE; Schema: x; Owner: y" text);
COMMENT ON TABLE app."we ird""n'a$$me
x\y ü;--" IS E'multi
-- Name: evil; Type: TABLE; Schema: public; Owner: postgres
line; $_$ \\.';
COMMENT ON COLUMN app."we ird""n'a$$me
x\y ü;--"."ü$$" IS 'col';
INSERT INTO app."we ird""n'a$$me
x\y ü;--" VALUES (1, E'\\.', E'\n\\.\n'), (2, E'a\tb\\N', ''), (3, NULL, E'\r\n\\\\.'), (4,
  repeat(E'\n',5), E'\x01\x7f');
CREATE TABLE app.nocols ();
INSERT INTO app.nocols DEFAULT VALUES;
INSERT INTO app.nocols DEFAULT VALUES;
CREATE TABLE app.onetext (t text);
INSERT INTO app.onetext VALUES (''),(NULL),('\.'),('\\.'),('.'),('\N'),(E'\\.\n'),('COPY x FROM stdin;'),
  ('-- Name: x; Type: TABLE; Schema: y; Owner: postgres');
CREATE FUNCTION app.q1() RETURNS text LANGUAGE plpgsql AS
  $_$ BEGIN RETURN $$a;b$$ || $q$ \! ls $q$; END $_$;
CREATE FUNCTION app.q2() RETURNS text LANGUAGE plpgsql AS
  'BEGIN RETURN ''$_$ $$ $function$ \.''; END';
CREATE FUNCTION app.q3(a int DEFAULT 1, OUT b int, VARIADIC c text[] DEFAULT ARRAY['x;y']::text[])
  LANGUAGE plpgsql COST 3 STABLE PARALLEL SAFE SET work_mem = '3MB' SET search_path = app, "x""y",
  public AS $$BEGIN b := a; END$$;
CREATE FUNCTION app.atomic(i int) RETURNS int LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT CASE
  WHEN i = 1 THEN (SELECT count(*) FROM app.onetext) ELSE CASE i WHEN 2 THEN 5 END END; SELECT 2
  AS "end"; END;
CREATE FUNCTION app.atomic2(i int) RETURNS int LANGUAGE sql RETURN i + 1;
CREATE PROCEDURE app.proc(INOUT x int) LANGUAGE sql BEGIN ATOMIC INSERT INTO app.onetext VALUES ('x')
  RETURNING 1; END;
CREATE PROCEDURE app.proc2() LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;
CREATE FUNCTION app.tbl() RETURNS TABLE (a int, b text) LANGUAGE sql SECURITY DEFINER ROWS 5 AS
  $$ SELECT 1, 'x' $$;
CREATE FUNCTION app.defp(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT i * 2';
CREATE FUNCTION app.pos(i int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT i > 0';
CREATE DOMAIN app.posint AS int CONSTRAINT poscheck CHECK (app.pos(VALUE)) DEFAULT 7;
CREATE DOMAIN app.nn AS text COLLATE "C" NOT NULL;
ALTER DOMAIN app.posint ADD CONSTRAINT later CHECK (VALUE < 1000) NOT VALID;
CREATE TYPE app.mood AS ENUM ('it''s', 'ok;', E'ne\nw');
CREATE TYPE app.comp AS (a int, b app.mood, c text COLLATE "C");
CREATE TYPE app.ran AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE TABLE app.types (p app.posint DEFAULT 9, n app.nn, m app.mood DEFAULT 'ok;', c app.comp, r
  app.ran, ps app.posint[] DEFAULT '{1,2}', h public.hstore, ci ext.citext);
INSERT INTO app.types VALUES (1, 'x', E'ne\nw', ROW(1,'ok;','y'), '[1,2]', '{3}', 'a=>b', 'CI');
-- psql itself takes the name for the beginning of a body.
DO $x$ BEGIN
  EXECUTE 'CREATE FUNCTION app.begin(begin int, "end" int) RETURNS int LANGUAGE sql BEGIN ATOMIC
    SELECT begin AS begin; SELECT x.begin FROM (VALUES (1)) AS x(begin);
    SELECT CASE WHEN (begin = 1) THEN begin ELSE "end" END; END';
  EXECUTE 'CREATE TABLE app.begin (begin int, "end" int, "case" int, atomic int, copy int)';
END $x$;
INSERT INTO app.begin VALUES (1,2);
CREATE TABLE app.parent (id int GENERATED ALWAYS AS IDENTITY (START 10 INCREMENT 5) PRIMARY KEY,
  s serial, g int GENERATED ALWAYS AS (app.defp(5)) STORED, t text COMPRESSION pglz, u text
  UNIQUE NULLS NOT DISTINCT);
ALTER TABLE app.parent ALTER COLUMN t SET STATISTICS 500, ALTER COLUMN t SET STORAGE EXTERNAL,
  ALTER COLUMN u SET (n_distinct = 5);
INSERT INTO app.parent (t, u) SELECT g, g FROM generate_series(1,10) g;
CREATE TABLE app.kid (k int CHECK (k > 0) NO INHERIT) INHERITS (app.parent);
INSERT INTO app.kid (id, t, k) OVERRIDING SYSTEM VALUE VALUES (100, 'k', 1);
ALTER TABLE app.kid ADD CONSTRAINT nv CHECK (k < 0) NOT VALID;
CREATE TABLE app.cyc1 (id int PRIMARY KEY, o int);
CREATE TABLE app.cyc2 (id int PRIMARY KEY, o int REFERENCES app.cyc1 DEFERRABLE INITIALLY
  DEFERRED);
ALTER TABLE app.cyc1 ADD FOREIGN KEY (o) REFERENCES app.cyc2 (id) ON DELETE CASCADE DEFERRABLE;
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO app.cyc1 VALUES (1,1);
INSERT INTO app.cyc2 VALUES (1,1);
COMMIT;
ALTER TABLE app.cyc2 ADD CONSTRAINT fknv FOREIGN KEY (id) REFERENCES app.parent (id) NOT VALID;
CREATE UNLOGGED TABLE app.unl (i int);
INSERT INTO app.unl VALUES (987654321);
CREATE TABLE app.ts (i int PRIMARY KEY USING INDEX TABLESPACE fast, j int) WITH (fillfactor = 50,
  autovacuum_enabled = off, toast.autovacuum_enabled = off);
CLUSTER app.ts USING ts_pkey;
CREATE INDEX ts_j ON app.ts (j DESC NULLS LAST) INCLUDE (i) WITH (fillfactor = 40) WHERE app.pos(j);
CREATE INDEX ts_e ON app.ts ((app.defp(j)));
ALTER INDEX app.ts_e ALTER COLUMN 1 SET STATISTICS 77;
INSERT INTO app.ts SELECT g, g FROM generate_series(1,100) g;
ALTER TABLE app.ts REPLICA IDENTITY FULL;
CREATE TABLE app.ri (i int NOT NULL, j int);
CREATE UNIQUE INDEX ri_i ON app.ri (i);
ALTER TABLE app.ri REPLICA IDENTITY USING INDEX ri_i;
CREATE TABLE app.excl (r int4range, i int, EXCLUDE USING gist (i WITH =, r WITH &&) DEFERRABLE);
INSERT INTO app.excl VALUES ('[1,3)',1);
CREATE TABLE app.part (i int, e app.mood, t text) PARTITION BY LIST (e);
CREATE TABLE app.part_a PARTITION OF app.part FOR VALUES IN ('it''s') PARTITION BY HASH (i);
CREATE TABLE app.part_a0 PARTITION OF app.part_a FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE app.part_a1 PARTITION OF app.part_a FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE app.part_d (x int, t text, e app.mood, i int);
ALTER TABLE app.part_d DROP COLUMN x;
ALTER TABLE app.part ATTACH PARTITION app.part_d DEFAULT;
INSERT INTO app.part SELECT g, (ARRAY['it''s','ok;'])[1 + g % 2]::app.mood, g FROM
  generate_series(1,50) g;
CREATE INDEX part_i ON app.part (i);
CREATE UNIQUE INDEX part_u ON app.part (e, i);
CREATE TABLE app.hashe (e app.mood, i int) PARTITION BY HASH (e);
CREATE TABLE app.hashe0 PARTITION OF app.hashe FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE app.hashe1 PARTITION OF app.hashe FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO app.hashe SELECT (ARRAY['it''s','ok;',E'ne\nw'])[1 + g % 3]::app.mood, g FROM
  generate_series(1,30) g;
CREATE TABLE app.partref (i int, e app.mood, FOREIGN KEY (e, i) REFERENCES app.part (e, i));
CREATE STATISTICS app.st (ndistinct, mcv) ON i, (t || 'x') FROM app.part;
ALTER STATISTICS app.st SET STATISTICS 55;
COMMENT ON STATISTICS app.st IS 's';
CREATE MATERIALIZED VIEW app.mv1 AS SELECT i, app.defp(i) AS d FROM app.ts WITH DATA;
CREATE MATERIALIZED VIEW app.a_mv0 AS SELECT sum(d) AS s FROM app.mv1;
CREATE MATERIALIZED VIEW app.mv_empty AS SELECT 1 AS one WITH NO DATA;
CREATE UNIQUE INDEX mv1_i ON app.mv1 (i);
CREATE INDEX mv0 ON app.a_mv0 (s);
CREATE VIEW app.v1 WITH (security_barrier, check_option = local) AS SELECT * FROM app.ts WHERE i
  > 5;
CREATE VIEW app.v2 WITH (security_invoker = true) AS SELECT 'x;y' AS "a;b", * FROM app.v1;
ALTER VIEW app.v2 ALTER COLUMN i SET DEFAULT 5;
CREATE TABLE app.pkv (id int PRIMARY KEY, t text);
CREATE VIEW app.grp AS SELECT id, t FROM app.pkv GROUP BY id;
SET search_path = app;
CREATE RECURSIVE VIEW app.rec (n) AS VALUES (1) UNION ALL SELECT n + 1 FROM rec WHERE n < 5;
SET search_path = public;
CREATE VIEW app.circ1 AS SELECT 1 AS a;
CREATE VIEW app.circ2 AS SELECT a FROM app.circ1;
CREATE OR REPLACE VIEW app.circ1 AS SELECT 1 AS a WHERE EXISTS (SELECT FROM pg_class WHERE
  relname = 'circ2');
CREATE FUNCTION app.usesv(v app.v1) RETURNS int LANGUAGE sql AS 'SELECT v.i';
CREATE TABLE app.logt (x text);
CREATE RULE r1 AS ON INSERT TO app.v2 DO INSTEAD (INSERT INTO app.logt VALUES ('a;b'); INSERT
  INTO app.logt VALUES (NEW.i); NOTIFY foo);
CREATE RULE r2 AS ON DELETE TO app.logt WHERE OLD.x = ';' DO NOTHING;
ALTER TABLE app.logt DISABLE RULE r2;
COMMENT ON RULE r2 ON app.logt IS 'r';
CREATE FUNCTION app.trg() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO app.logt VALUES (TG_NAME); RETURN NEW; END $$;
CREATE TRIGGER "t;1" BEFORE INSERT ON app.ts FOR EACH ROW WHEN (NEW.i > 0) EXECUTE FUNCTION app.trg('a;b',
  '\', E'c\nd');
CREATE TRIGGER t2 AFTER UPDATE ON app.ts REFERENCING OLD TABLE AS o FOR EACH STATEMENT EXECUTE
  FUNCTION app.trg();
ALTER TABLE app.ts DISABLE TRIGGER t2;
CREATE TRIGGER t3 BEFORE INSERT ON app.ts FOR EACH ROW EXECUTE FUNCTION app.trg();
ALTER TABLE app.ts ENABLE ALWAYS TRIGGER t3;
CREATE TRIGGER t4 BEFORE INSERT ON app.ts FOR EACH ROW EXECUTE FUNCTION app.trg();
ALTER TABLE app.ts ENABLE REPLICA TRIGGER t4;
CREATE CONSTRAINT TRIGGER t5 AFTER INSERT ON app.ts DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
  EXECUTE FUNCTION app.trg();
COMMENT ON TRIGGER t5 ON app.ts IS 't';
CREATE TRIGGER t6 INSTEAD OF UPDATE ON app.v1 FOR EACH ROW EXECUTE FUNCTION app.trg();
CREATE TRIGGER t7 AFTER INSERT ON app.part FOR EACH ROW EXECUTE FUNCTION app.trg();
ALTER TABLE app.part_d DISABLE TRIGGER t7;
CREATE TABLE app.rls (i int, who text DEFAULT current_user);
INSERT INTO app.rls VALUES (1, 'nobody'), (2, 'app');
ALTER TABLE app.rls ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON app.rls AS RESTRICTIVE FOR SELECT TO other, psscript USING (who = current_user
  AND app.pos(i));
CREATE POLICY p2 ON app.rls WITH CHECK (i > 0);
COMMENT ON POLICY p ON app.rls IS 'p';
GRANT SELECT (i), UPDATE (who) ON app.rls TO other WITH GRANT OPTION;
GRANT SELECT ON app.ts TO PUBLIC;
REVOKE INSERT ON app.ts FROM psscript;
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO other;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT USAGE ON TYPES TO other;
CREATE FUNCTION app.sumf(a int, b int) RETURNS int LANGUAGE sql IMMUTABLE AS
  'SELECT coalesce(a,0) + coalesce(b,0)';
CREATE AGGREGATE app.mysum (int) (SFUNC = app.sumf, STYPE = int, INITCOND = '5', MSFUNC = app.sumf,
  MINVFUNC = app.sumf, MSTYPE = int, PARALLEL = safe);
RESET ROLE;
CREATE AGGREGATE app.osum (VARIADIC "any" ORDER BY VARIADIC "any") (SFUNC =
  ordered_set_transition_multi, STYPE = internal, FINALFUNC = rank_final, FINALFUNC_EXTRA,
  HYPOTHETICAL);
RESET ROLE;
SET ROLE psscript;
COMMENT ON AGGREGATE app.mysum (int) IS 'agg';
CREATE FUNCTION app.eq(a app.comp, b app.comp) RETURNS boolean LANGUAGE sql IMMUTABLE AS
  'SELECT (a).a = (b).a';
CREATE OPERATOR app.=== (FUNCTION = app.eq, LEFTARG = app.comp, RIGHTARG = app.comp, COMMUTATOR =
  OPERATOR(app.===), NEGATOR = OPERATOR(app.!==), RESTRICT = eqsel, JOIN = eqjoinsel);
CREATE FUNCTION app.ne(a app.comp, b app.comp) RETURNS boolean LANGUAGE sql IMMUTABLE AS
  'SELECT (a).a <> (b).a';
CREATE OPERATOR app.!== (FUNCTION = app.ne, LEFTARG = app.comp, RIGHTARG = app.comp, COMMUTATOR =
  OPERATOR(app.!==), NEGATOR = OPERATOR(app.===));
CREATE OPERATOR app.@#@ (FUNCTION = app.defp, RIGHTARG = int);
RESET ROLE;
CREATE OPERATOR FAMILY app.fam USING btree;
CREATE FUNCTION app.cmpx(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS
  'SELECT CASE WHEN $1 < $2 THEN 1 WHEN $1 = $2 THEN 0 ELSE -1 END';
CREATE OPERATOR CLASS app.revint FOR TYPE int USING btree FAMILY app.fam AS OPERATOR 1 >,
  OPERATOR 2 >=, OPERATOR 3 =, OPERATOR 4 <=, OPERATOR 5 <, FUNCTION 1 app.cmpx(int, int);
ALTER OPERATOR CLASS app.revint USING btree OWNER TO psscript;
ALTER FUNCTION app.cmpx OWNER TO psscript;
CREATE INDEX ts_rev ON app.ts (j app.revint);
CREATE FUNCTION app.mood2int(app.mood) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT 1 $$;
ALTER FUNCTION app.mood2int OWNER TO psscript;
CREATE CAST (app.mood AS int) WITH FUNCTION app.mood2int(app.mood) AS ASSIGNMENT;
COMMENT ON CAST (app.mood AS int) IS 'cast';
CREATE CAST (int AS app.mood) WITH INOUT;
SET ROLE psscript;
CREATE COLLATION app.de (provider = icu, locale = 'de-u-ks-level2', deterministic = false);
CREATE TABLE app.coll (t text COLLATE app.de UNIQUE, u text COLLATE "C");
INSERT INTO app.coll VALUES ('Aü','x');
CREATE TEXT SEARCH DICTIONARY app.dict (TEMPLATE = simple, StopWords = 'english');
CREATE TEXT SEARCH CONFIGURATION app.cfg (COPY = english);
ALTER TEXT SEARCH CONFIGURATION app.cfg ALTER MAPPING FOR word WITH app.dict, simple;
CREATE TABLE app.fts (t text, v tsvector GENERATED ALWAYS AS (to_tsvector('app.cfg', t)) STORED);
CREATE INDEX fts_v ON app.fts USING gin (v);
INSERT INTO app.fts VALUES ('hello worlds');
CREATE SEQUENCE app.seq AS smallint INCREMENT -3 MINVALUE -100 MAXVALUE 5 START 5 CACHE 7 CYCLE;
SELECT nextval('app.seq');
CREATE UNLOGGED SEQUENCE app.useq;
CREATE SEQUENCE app.unused;
RESET ROLE;
SELECT lo_from_bytea(4711, '\xdeadbeef00'::bytea);
ALTER LARGE OBJECT 4711 OWNER TO psscript;
GRANT SELECT ON LARGE OBJECT 4711 TO other;
COMMENT ON LARGE OBJECT 4711 IS 'lo';
SELECT lo_from_bytea(4712, decode(repeat('00ff', 100000),'hex'));
SELECT lo_create(4713);
ALTER LARGE OBJECT 4713 OWNER TO other;
CREATE FOREIGN DATA WRAPPER dummy;
CREATE SERVER d1 TYPE 't' VERSION 'v' FOREIGN DATA WRAPPER dummy OPTIONS ("opt;1" 'a''b', b
  E'c\nd');
ALTER SERVER d1 OWNER TO psscript;
GRANT USAGE ON FOREIGN SERVER d1 TO other;
CREATE SERVER pgs FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'x', dbname 'y');
CREATE USER MAPPING FOR psscript SERVER pgs OPTIONS (user 'u', password 'se''cret');
CREATE USER MAPPING FOR PUBLIC SERVER d1;
CREATE USER MAPPING FOR other SERVER d1 OPTIONS (a 'b');
CREATE FOREIGN TABLE app.ft (i int OPTIONS (column_name 'x') NOT NULL) SERVER pgs OPTIONS (schema_name
  's');
ALTER FOREIGN TABLE app.ft OWNER TO psscript;
GRANT USAGE ON FOREIGN DATA WRAPPER dummy TO psscript;
CREATE TABLE app.rpart (i int) PARTITION BY RANGE (i);
CREATE FOREIGN TABLE app.part_f PARTITION OF app.rpart FOR VALUES FROM (0) TO (5) SERVER pgs;
CREATE TABLE public.mine (i int, d app.posint DEFAULT 3);
INSERT INTO public.mine VALUES (1, 1);
CREATE TABLE public.mix (i int REFERENCES app.cyc1);
ALTER TABLE public.mix OWNER TO other;
CREATE TABLE app.xpart PARTITION OF app.part FOR VALUES IN (NULL);
CREATE FUNCTION public.cfun(int, int) RETURNS int LANGUAGE internal AS 'int4pl' IMMUTABLE;
CREATE PUBLICATION pub FOR TABLE app.ts (i) WHERE (i > 5), app.ri;
CREATE PUBLICATION puball FOR ALL TABLES WITH (publish = 'insert', publish_via_partition_root);
CREATE PUBLICATION pubs FOR TABLES IN SCHEMA app;
COMMENT ON PUBLICATION pub IS 'pub';
ALTER PUBLICATION pub OWNER TO psscript;
CREATE SUBSCRIPTION sub CONNECTION 'dbname=nowhere password=hidden' PUBLICATION x, "y;z" WITH (connect
  = false, slot_name = NONE);
CREATE FUNCTION public.evt() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
  IF current_database() <> 'shop' THEN RAISE EXCEPTION 'no DDL here'; END IF; END $$;
CREATE EVENT TRIGGER no_ddl ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'CREATE INDEX')
  EXECUTE FUNCTION public.evt();
COMMENT ON EVENT TRIGGER no_ddl IS 'evt';
CREATE EVENT TRIGGER always_et ON sql_drop EXECUTE FUNCTION public.evt();
ALTER EVENT TRIGGER always_et DISABLE;
ALTER DEFAULT PRIVILEGES FOR ROLE psscript IN SCHEMA public GRANT ALL ON SEQUENCES TO other;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO other, psscript;
GRANT SELECT ON pg_stat_activity TO other;
REVOKE EXECUTE ON FUNCTION pg_sleep(float8) FROM PUBLIC;
GRANT USAGE ON LANGUAGE plpgsql TO other;
REVOKE USAGE ON LANGUAGE sql FROM PUBLIC;
GRANT USAGE ON LANGUAGE sql TO psscript, PUBLIC;
CREATE TABLE app.slow (i int PRIMARY KEY USING INDEX TABLESPACE "slow one", j int) TABLESPACE
  "slow one";
ALTER TABLE app.slow OWNER TO psscript;
CREATE INDEX "slow j" ON app.slow (j) TABLESPACE "slow one";
INSERT INTO app.slow SELECT g,g FROM generate_series(1,100) g;
CREATE MATERIALIZED VIEW app.slowmv TABLESPACE "slow one" AS SELECT 1 AS a;
ALTER MATERIALIZED VIEW app.slowmv OWNER TO psscript;
CREATE TABLE app.slowp (i int) PARTITION BY RANGE (i) TABLESPACE "slow one";
ALTER TABLE app.slowp OWNER TO psscript;
CREATE TABLE app.slowp1 PARTITION OF app.slowp FOR VALUES FROM (0) TO (10);
ALTER TABLE app.slowp1 OWNER TO psscript;
CREATE INDEX slowpi ON app.slowp (i);
CREATE FUNCTION public.secret_trg() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
REVOKE ALL ON FUNCTION public.secret_trg() FROM PUBLIC;
CREATE TRIGGER w BEFORE INSERT ON app.slow FOR EACH ROW WHEN (NEW.j > 0) EXECUTE FUNCTION public.secret_trg();
CREATE FUNCTION public.sdef(i int) RETURNS int LANGUAGE sql LEAKPROOF SECURITY DEFINER AS
  'SELECT i';
REVOKE ALL ON FUNCTION public.sdef(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.sdef TO other;
CREATE FUNCTION public.chk_secret(i int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT i > 0';
REVOKE ALL ON FUNCTION public.chk_secret(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.chk_secret(int) TO psscript;
CREATE TABLE app.chk (i int CHECK (public.chk_secret(i)), g int GENERATED ALWAYS AS (CASE WHEN
  public.chk_secret(i) THEN 1 END) STORED);
CREATE INDEX chk_i ON app.chk (public.chk_secret(i));
INSERT INTO app.chk VALUES (1);
ALTER TABLE app.chk OWNER TO psscript;
CREATE TYPE public.ptype AS ENUM ('a');
REVOKE ALL ON TYPE public.ptype FROM PUBLIC;
CREATE TABLE app.usep (p public.ptype DEFAULT 'a');
INSERT INTO app.usep VALUES ('a');
ALTER TABLE app.usep OWNER TO psscript;
CREATE SCHEMA hid;
CREATE TABLE hid.t (i int);
INSERT INTO hid.t VALUES (3);
CREATE VIEW app.hv AS SELECT * FROM hid.t;
ALTER VIEW app.hv OWNER TO psscript;
CREATE MATERIALIZED VIEW app.hmv AS SELECT * FROM hid.t;
CREATE EXTENSION pg_stat_statements;
CREATE EXTENSION pgcrypto SCHEMA ext;
CREATE EXTENSION "uuid-ossp";
CREATE EXTENSION tablefunc;
CREATE EXTENSION intarray;
CREATE EXTENSION ltree;
CREATE EXTENSION file_fdw;
CREATE EXTENSION pageinspect;
CREATE EXTENSION pg_buffercache;
CREATE EXTENSION lo;
CREATE EXTENSION unaccent;
CREATE EXTENSION dblink;
CREATE TABLE app.rast (id int, r lo);
CREATE TRIGGER tlo BEFORE UPDATE OR DELETE ON app.rast FOR EACH ROW EXECUTE FUNCTION lo_manage(r);
INSERT INTO app.rast VALUES (1, 4711);
ALTER TABLE app.rast OWNER TO psscript;
CREATE INDEX onetext_un ON app.onetext USING gin (t gin_trgm_ops);
CREATE FUNCTION app.unacc(text) RETURNS text LANGUAGE sql IMMUTABLE AS
  $$ SELECT public.unaccent('public.unaccent', $1) $$;
CREATE INDEX onetext_u ON app.onetext (app.unacc(t));
CREATE TABLE app."EVENT TRIGGER x" (i int);
COMMENT ON TABLE app."EVENT TRIGGER x" IS 'y';
ALTER TABLE app."EVENT TRIGGER x" OWNER TO psscript;
INSERT INTO app."EVENT TRIGGER x" VALUES (1);
CREATE SCHEMA "a.b; Owner: app";
CREATE TABLE "a.b; Owner: app"."c.d; Type: X" (i int PRIMARY KEY USING INDEX TABLESPACE
  "slow one");
CREATE INDEX index ON "a.b; Owner: app"."c.d; Type: X" (i) TABLESPACE "slow one";
INSERT INTO "a.b; Owner: app"."c.d; Type: X" VALUES (1);
CREATE TABLE app.only2 ("only" int, "constraint" int, index int2, type text, name text,
  CONSTRAINT "unique" UNIQUE ("only", index));
ALTER TABLE app.only2 OWNER TO psscript;
CREATE VIEW public.nouse AS SELECT 1 AS a;
GRANT SELECT (a) ON public.nouse TO psscript;
SET ROLE psscript;
CREATE TABLE app.zz_known (k int PRIMARY KEY);
INSERT INTO app.zz_known VALUES (1);
CREATE FUNCTION app.is_known(i int) RETURNS boolean LANGUAGE plpgsql AS
  $$ BEGIN IF NOT EXISTS (SELECT FROM app.zz_known WHERE k = i) THEN
  RAISE EXCEPTION 'unknown: %', i; END IF; RETURN true; END $$;
CREATE TABLE app.aa_knows (i int CHECK (app.is_known(i)));
INSERT INTO app.aa_knows SELECT 1 FROM generate_series(1, 10000);
CREATE FUNCTION app.at_home() RETURNS int LANGUAGE plpgsql AS
  $$ BEGIN IF current_database() <> 'shop' THEN
  RAISE EXCEPTION 'not at home'; END IF; RETURN 1; END $$;
CREATE MATERIALIZED VIEW app.at_home_only AS SELECT app.at_home() AS i;
CREATE SEQUENCE app.revoked;
REVOKE ALL ON SEQUENCE app.revoked FROM psscript;
RESET ROLE;
SELECT setval('app.revoked', 77);
CREATE TABLE app.seen (i int);
INSERT INTO app.seen VALUES (1), (2);
GRANT SELECT ON app.seen TO psscript;
ALTER TABLE app.seen ENABLE ROW LEVEL SECURITY;
CREATE POLICY twos ON app.seen TO psscript USING (i = 2);
SET ROLE psscript;
CREATE MATERIALIZED VIEW app.seen_twos AS SELECT i FROM app.seen;
CREATE TABLE app.orphans (i int CONSTRAINT orphan REFERENCES app.zz_known (k));
RESET ROLE;
INSERT INTO app.orphans VALUES (7);
