package main

type settingsCmd struct {
	Long   bool   `short:"l" help:"With what the reference configuration says of each."`
	Output string `short:"o" help:"How: table or json." enum:"table,json" default:"table"`
}

// Run shows the controller's configuration as it is in force.
func (c *settingsCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	s, err := client.Settings(a)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return a.out.json(s)
	}
	rows := [][]string{{"KEY", "VALUE", "SOURCE", "DEFAULT", "WHERE"}}
	for _, x := range s.Items {
		rows = append(rows, []string{x.Key, x.Value, string(x.Source), x.Default, x.Where})
	}
	if !c.Long {
		return a.out.table(rows)
	}
	for _, x := range s.Items {
		if err := a.out.printf("%s = %s  (%s, %s)\n", x.Key, x.Value, x.Source, x.Where); err != nil {
			return err
		}
		if err := a.out.paragraph(x.Help); err != nil {
			return err
		}
	}
	return nil
}
