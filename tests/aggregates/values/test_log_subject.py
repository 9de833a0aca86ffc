"""Tags and attributes of a log (LOG-01, LOG-08): Go's templates over a container, Go's complaints."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from engine.aggregates.values.log_subject import LogSubject, attributes, file_attributes, tag
from engine.aggregates.values.templates import TemplateError

WEB = LogSubject(
    config={},
    container_id="0123456789ab" + "c" * 52,
    name="web",
    path="nginx",
    args=("-g", "daemon off;"),
    image_id="sha256:fedcba987654" + "0" * 52,
    image_name="registry:5000/nginx:1",
    created_at="2023-11-14T22:13:20.000000000Z",
    env=("STAGE=prod", "SECRET=s3", "EMPTY="),
    labels={"com.example.app": "shop", "tier": "front"},
    hostname="ship",
)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("", "0123456789ab"),
        ("plain", "plain"),
        ("{{.Name}}/{{.FullID}}", "web/" + WEB.container_id),
        ("{{.ImageName}}|{{.ImageID}}|{{.ImageFullID}}", f"{WEB.image_name}|fedcba987654|{WEB.image_id}"),
        ("{{ .Command }}@{{.Hostname}} {{.DaemonName}}", "nginx -g daemon off;@ship docker"),
        ("{{upper .Name}} {{.Name | title}} {{truncate .ID 4}} {{pad .Name 1 2}}|", "WEB Web 0123  web  |"),
        ('{{join (split .Command " ") "_"}}', "nginx_-g_daemon_off;"),
        ('{{index .ContainerLabels "tier"}} {{json .ContainerArgs}}', 'front ["-g","daemon off;"]'),
        ("{{.ContainerName}} {{.ContainerEntrypoint}}", "/web nginx"),
        ("a {{- .Name -}} b{{/* not said */}}", "awebb"),
        ("{{(.ExtraAttributes nil).STAGE}}", "prod"),
    ],
)
def test_a_tag_is_the_containers(text: str, filled: str) -> None:
    """LOG-08"""
    assert tag(replace(WEB, config={"tag": text, "env": "STAGE"})) == filled


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "{{.Colour}}",
            'template: log-tag:1:2: executing "log-tag" at <.Colour>: '
            "can't evaluate field Colour in type *logger.Info",
        ),
        ("x{{shout .Name}}", 'template: log-tag:1: function "shout" not defined'),
        ("{{.Name", "template: log-tag:1: unclosed action"),
        ("{{if .Name}}x{{end}}", "template: log-tag:1: {{if}} is not implemented"),
        ("{{}}", "template: log-tag:1: missing value for command"),
        ("{{(.Name}}", "template: log-tag:1: unclosed left paren"),
    ],
)
def test_a_tag_that_can_not_be_filled_in_is_refused_in_gos_words(text: str, words: str) -> None:
    """LOG-08"""
    with pytest.raises(TemplateError) as caught:
        tag(replace(WEB, config={"tag": text}))
    assert str(caught.value) == words


def test_attributes_are_the_labels_and_variables_that_were_asked_for() -> None:
    """LOG-01"""
    asked = {"labels": "tier,none", "labels-regex": "^com[.]example", "env": "EMPTY,NONE", "env-regex": "^ST"}
    found = attributes(replace(WEB, config=asked))
    assert found == {"tier": "front", "com.example.app": "shop", "EMPTY": "", "STAGE": "prod"}
    assert attributes(replace(WEB, config={"labels": "tier"}), lambda name: f"_{name}") == {"_tier": "front"}
    assert attributes(WEB) == {}


def test_entries_of_files_have_a_tag_only_when_one_was_asked_for() -> None:
    """LOG-01, LOG-02"""
    assert file_attributes(replace(WEB, config={"labels": "tier"})) == {"tier": "front"}
    assert file_attributes(replace(WEB, config={"tag": "{{.Name}}"})) == {"tag": "web"}
